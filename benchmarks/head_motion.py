"""What the 3-D step is for: people who turn their heads, plain optical flow beside motion on the face.

    python -m benchmarks.head_motion FOLDER      # a quarter of an hour; FOLDER keeps the databases

The same synthetic people show the same expressions while their heads turn by 0, 2, 5 and 10 degrees from
onset to apex and drift by a pixel a degree; beside them only the lamp moves without meaning anything. Both
motions, of the apex, go to the same SVM, leave-one-subject-out. Plain flow is taken on the crops, whose
square is the onset's.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from capsule.data import load_clips
from capsule.inputs import face_crops
from capsule.inputs.augment import shrunk
from capsule.inputs.crops import with_images
from capsule.inputs.motion import as_levels, face_motion, normalised
from capsule.inputs.sampling import data_split
from capsule.metrics import Meter, bootstrap_uf1
from capsule.modules.ststnet import SIDE
from capsule.modules.svm import SVM
from common.console import Parser, run_main
from deca.motion import strain, symmetric_flow
from synthetic.database import make_synthetic

DEGREES = (0, 2, 5, 10)
SETTINGS = {"people": 12, "clips": 6, "glasses": 0.4, "intensity": 2.0, "distractors": 0.0, "frames": (7, 7)}


def apexes(crops):
    """The apex frames of `crops` alone, as FrameImages, in the order of the clips."""
    rows = np.flatnonzero(crops.is_apex)
    return replace(crops, images=crops.images[rows], clip=crops.clip[rows], is_apex=crops.is_apex[rows],
                   names=[crops.names[row] for row in rows])


def plain_flow(crops):
    """Optical flow of the crops themselves, onset to each frame: FrameImages of kind "motion"."""
    moved = []
    for row, picture in zip(crops.clip, crops.images, strict=True):
        before, after = (image.float().mean(0).numpy() for image in (crops.onsets[row], picture))
        u, v = symmetric_flow(before, after).transpose(2, 0, 1)
        moved.append(as_levels(np.stack([u, v, strain(u, v)])))
    rule = {"rule": "plain flow", "version": 1}
    return with_images(crops, torch.from_numpy(np.stack(moved)), "motion", rule)


def score(clips, predict):
    """Strict UF1, its 95 % interval, UAR and the predictions (n,), leave-one-subject-out. predict(rows of the
    clip table to learn from, their labels, rows left out) → class numbers of these."""
    labels, subjects = clips.labels, clips.table["data_sub"].to_numpy(str)
    found = np.empty_like(labels)
    for subject in clips.subjects:
        train, test = data_split(clips, subject)
        found[test] = predict(train, labels[train], test)
    meter = Meter(clips.n_classes, labels, found)
    return meter.uf1, bootstrap_uf1(labels, found, subjects, clips.n_classes), meter.uar, found


def of_motion(motion):
    """`score` of the SVM on one motion picture a clip."""
    images, classes = shrunk(normalised(motion).images, SIDE).numpy(), motion.clips.n_classes
    return score(motion.clips, lambda train, labels, test: SVM(classes).fit(images[train], labels).scores(
        images[test]).argmax(1))


def main(folder, seed):
    """Print a row for each kind of motion and head movement."""
    print(f"{'head turns by':>14}{'motion':>14}{'strict UF1':>12}{'95 % interval':>16}{'UAR':>8}")
    for degrees in DEGREES:
        root = Path(folder) / f"head{degrees}-seed{seed}"
        make_synthetic(root, progress=True, head_motion=float(degrees), seed=seed, **SETTINGS)
        crops = apexes(face_crops(load_clips("synthetic", root)))
        for name, motion in {"plain flow": plain_flow(crops), "on the face": face_motion(crops)}.items():
            uf1, (low, high), uar, _ = of_motion(motion)
            print(f"{degrees:>10} deg{name:>14}{uf1:>12.4f}{f'{low:.3f}-{high:.3f}':>16}{uar:>8.4f}",
                  flush=True)


if __name__ == "__main__":
    parser = Parser(prog="python -m benchmarks.head_motion", description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0, help="of the databases [0]")
    given = parser.parse_args()
    run_main(lambda: main(given.folder, given.seed))
