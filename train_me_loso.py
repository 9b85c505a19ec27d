"""Leave-one-subject-out training of the 2-D capsule network on apex crops.

Inputs    the databases under data/ (data/README.md), or --dataset synthetic
Outputs   result/<experiment>/: one JSON a fold; then run get_result_log.py for result/result_log.csv
Command   python train_me_loso.py --protocol megc2019
Expect    CapsuleNet published UF1 .6520 / UAR .6506 on the composite with the `paper` evaluation; `strict`
          is lower. 68 folds of 30 epochs: minutes on a modern GPU, days on a laptop's CPU (try --quick).
"""

from capsule.config import run
from capsule.data import load_clips
from capsule.inputs import face_crops
from capsule.modules import network
from capsule.run import run_loso

DATASET = "composite"       # casme | smic | samm | composite | synthetic
PROTOCOL = "dsnca"          # dsnca: the reference's clip list | megc2019: the challenge's
MODEL = "resnet"            # backbone: resnet | vgg
FREEZE = False              # the reference trains every layer here
EPOCHS, BATCH_SIZE, LEARNING_RATE, LR_DECAY = 30, 32, 1e-4, 0.9
SEED = 9


def main(options):
    clips = load_clips(options.dataset, options.data_root, options.classes, options.protocol, options.subset,
                       options.skip_missing, options.frames)            # the protocol, checked
    net = network(options.model, clips.n_classes, options.freeze, quick=options.quick,
                  pretrained=options.pretrained, weights=options.weights)
    crops = face_crops(clips)                                           # 224 x 224, cached
    return run_loso(options, clips, [crops], net)


if __name__ == "__main__":
    run(main, globals(), ("resnet", "vgg"))
