"""Leave-one-subject-out training of the 3-D capsule network on thirteen rendered views of each apex.

Inputs    the databases under data/ (data/README.md), or --dataset synthetic; DECA's official files in
          deca/data/ where you have them (deca/data/README.md), else the landmark fit makes the views
Outputs   data/views/: the views, cached; result/<experiment>/: one JSON a fold; then run get_result_log.py
Command   python train_me_loso_composite_3d.py
Expect    68 folds of 30 epochs: minutes on a modern GPU, days on a laptop's CPU (try --quick).
"""

from capsule.config import run
from capsule.data import load_clips
from capsule.inputs import face_crops
from capsule.inputs.views import thirteen_views
from capsule.modules import MECapsuleNet
from capsule.run import run_loso

DATASET = "composite"       # casme | smic | samm | composite | synthetic
PROTOCOL = "dsnca"          # dsnca: the reference's clip list | megc2019: the challenge's
MODEL = "resnet"            # backbone: resnet | vgg
RECONSTRUCTOR = "auto"      # deca | landmarks | auto: deca where the official files are
EPOCHS, BATCH_SIZE, LEARNING_RATE, LR_DECAY = 30, 16, 1e-4, 0.9
SEED = 9


def main(config):
    clips = load_clips(config)                       # the protocol, checked
    crops = face_crops(clips, config)                # 224 x 224, cached
    views = thirteen_views(clips, crops, config)     # 13 x 224 x 224, cached
    size = (39, config.input_size, config.input_size)
    return run_loso(config, clips, [views], lambda: MECapsuleNet(
        size, clips.n_classes, conv_name=config.model, is_freeze=config.freeze, pretrained=config.pretrained,
        width=config.width))


if __name__ == "__main__":
    run(main, __doc__, dataset=DATASET, protocol=PROTOCOL, model=MODEL, model_choices=("resnet", "vgg"),
        reconstructor=RECONSTRUCTOR, epochs=EPOCHS, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
        lr_decay=LR_DECAY, seed=SEED)
