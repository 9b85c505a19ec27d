"""Leave-one-subject-out training on motion from onset to apex: STSTNet, capsule networks, or an SVM.

Inputs    a folder of ready motion pictures, one a clip, named <subject>_<clip> (red u, green v, blue strain),
          with the annotation sheets under data/ (no frames are needed); or "frames": motion on the 3-D face,
          from the databases under data/ (data/README.md) or --dataset synthetic
Outputs   result/<experiment>/: one JSON a fold; then run get_result_log.py for result/result_log.csv
Command   python train_me_loso_composite_motion.py --motion FOLDER --workers 2
Expect    minutes on a laptop (README.md has the figures); STSTNet's authors report UF1 .7353 / UAR .7186
          on 442 clips.
"""

from capsule.config import run
from capsule.data import load_clips, with_action_units
from capsule.inputs import face_crops
from capsule.inputs.motion import face_motion, normalised, ready_motion
from capsule.modules import network
from capsule.run import run_loso

DATASET = "composite"       # casme | smic | samm | composite | synthetic
PROTOCOL = "megc2019"       # dsnca: the reference's clip list | megc2019: the challenge's
MODEL = "STSTNet"           # STSTNet | MotionCapsuleNet | MECapsuleNet | SVM | ActionUnitSVM: the row to beat
MOTION = "frames"           # frames: onset to apex, on the 3-D face | a folder of ready motion pictures
RECONSTRUCTOR = "auto"      # deca | mesh | auto: deca where the official files are
# The authors of STSTNet train 800 epochs of batches of 256 at 5e-5 without decay: hours here. The step size
# follows tries on groups of the same subjects; the epochs make as many steps as 30 passes over the clips.
EPOCHS, BATCH_SIZE, LEARNING_RATE, LR_DECAY = 12, 32, 3e-3, 0.8
SEED = 9


def main(options):
    frames = options.frames if options.motion == "frames" else None      # ready pictures need none
    clips = load_clips(options.dataset, options.data_root, options.classes, options.protocol, options.subset,
                       options.skip_missing, frames)                    # the protocol, checked
    net = network(options.model, clips.n_classes, quick=options.quick, pretrained=options.pretrained,
                  weights=options.weights)
    if options.motion == "frames":
        motion = face_motion(face_crops(clips), options.reconstructor, (0,), options.device,
                             options.rasterizer)
    else:
        clips, motion = ready_motion(clips, options.motion, options.skip_missing)
    if options.model == "ActionUnitSVM":
        clips = with_action_units(clips)      # of the training clips: a fold never reads the held-out one's
    return run_loso(options, clips, [normalised(motion)], net)


if __name__ == "__main__":
    run(main, globals(), ("STSTNet", "MotionCapsuleNet", "MECapsuleNet", "SVM", "ActionUnitSVM"),
        rasterizer="auto", pretrained=False)
