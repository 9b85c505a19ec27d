"""Leave-one-subject-out training of a plain ImageNet network, the baseline that capsules are compared with.

Inputs    the databases under data/ (data/README.md), or --dataset synthetic
Outputs   result/<experiment>/: one JSON a fold; then run get_result_log.py for result/result_log.csv
Command   python train_me_loso_samm_baseline.py --model VGG
Expect    28 folds of 30 epochs on SAMM: minutes on a modern GPU, a day on a laptop's CPU (try --quick). The
          reference trains cross-entropy on the softmax output, which learns slowly; --logits is textbook.
"""

from capsule.config import run
from capsule.data import load_clips
from capsule.inputs import face_crops
from capsule.modules import network
from capsule.run import run_loso

DATASET = "samm"            # casme | smic | samm | composite | synthetic
PROTOCOL = "dsnca"          # dsnca: the reference's clip list | megc2019: the challenge's
MODEL = "ResNet"            # VGG: VGG-11 | ResNet: ResNet-18
FREEZE = True               # the reference keeps the ResNet baseline's first layers
LOGITS = False              # False: cross-entropy on the softmax output, as the reference | True: on logits
EPOCHS, BATCH_SIZE, LEARNING_RATE, LR_DECAY = 30, 32, 1e-4, 0.9
SEED = 9


def main(options):
    clips = load_clips(options.dataset, options.data_root, options.classes, options.protocol, options.subset,
                       options.skip_missing, options.frames)            # the protocol, checked
    net = network(options.model, clips.n_classes, options.freeze, options.logits, quick=options.quick,
                  pretrained=options.pretrained, weights=options.weights)
    crops = face_crops(clips)                                           # 224 x 224, cached
    return run_loso(options, clips, [crops], net)


if __name__ == "__main__":
    run(main, globals(), ("VGG", "ResNet"))
