"""Leave-one-subject-out training of the dual network: apex crop and thirteen views, coordinate attention.

Inputs    the databases under data/ (data/README.md), or --dataset synthetic; DECA's official files in
          deca/data/ where you have them (deca/data/README.md), else the face mesh makes the views
Outputs   data/views/: the views, cached; result/<experiment>/: one JSON a fold; then run get_result_log.py
Command   python train_me_loso_casme_3d_dual.py --classes 5
Expect    24 folds of 30 epochs (26 for 5 classes): minutes on a modern GPU, days on a laptop's CPU (--quick).
"""

from capsule.config import run
from capsule.data import load_clips
from capsule.inputs import face_crops, thirteen_views
from capsule.modules import network
from capsule.run import run_loso

DATASET = "casme"           # casme | smic | samm | composite | synthetic
PROTOCOL = "dsnca"          # dsnca: the reference's clip list | megc2019: the challenge's
MODEL = "MECapsuleNetDualCA"    # MECapsuleNetDualCA | MECapsuleNetDual: without coordinate attention
FREEZE = False              # the reference trains every layer here
RECONSTRUCTOR = "auto"      # deca | mesh | auto: deca where the official files are
# shape_detail: grey, the reference's | texture: the photograph | motion: onset to apex
PAINT = "shape_detail"
EPOCHS, BATCH_SIZE, LEARNING_RATE, LR_DECAY = 30, 16, 1e-4, 0.9
SEED = 9


def main(options):
    clips = load_clips(options.dataset, options.data_root, options.classes, options.protocol, options.subset,
                       options.skip_missing, options.frames)            # the protocol, checked
    net = network(options.model, clips.n_classes, options.freeze, quick=options.quick,
                  pretrained=options.pretrained, weights=options.weights)
    crops = face_crops(clips)                                           # 224 x 224, cached
    views = thirteen_views(crops, options.reconstructor, options.paint, options.device, options.rasterizer,
                           options.views_root)                          # 13 x 224 x 224, cached
    return run_loso(options, clips, [crops, views], net)


if __name__ == "__main__":
    run(main, globals(), ("MECapsuleNetDualCA", "MECapsuleNetDual"), rasterizer="auto", views_root="")
