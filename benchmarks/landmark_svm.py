"""How far landmarks alone get: a linear SVM on how the 68 landmarks move from onset to apex.

    python -m benchmarks.landmark_svm [--dataset synthetic] [--data-root data]      # half a minute

The face is found in the onset's crop and its landmarks predicted in the same box of the apex's. Two rows, as
they are and aligned (the apex's brought onto the onset's by a similarity of nose and eyes); each coordinate
standardised, classes balanced, C = 1, leave-one-subject-out. On the demo's database .725 and .519; other C,
other kinds of linear SVM and coordinates as they are gave .62 to .76.
"""

import numpy as np
from skimage.transform import SimilarityTransform
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from benchmarks.head_motion import apexes, score
from capsule.data import load_clips
from capsule.inputs import face_crops
from common.console import Parser, run_main
from common.errors import InputError
from deca.landmarks import LandmarkDetector

NOSE_AND_EYES = range(27, 48)


def movements(crops):
    """How the landmarks of each of n clips move, pixels of the crop: (2, n, 136), as they are and aligned.

    0 where the onset shows no face. Raises: InputError when a clip's onset is not on disk.
    """
    if not crops.has_onset.all():
        raise InputError(f"{int((~crops.has_onset).sum())} clips have no onset frame on disk; lay them there")
    pictures = [images.permute(0, 2, 3, 1).numpy() for images in (crops.onsets, apexes(crops).images)]
    detector, moved = LandmarkDetector(), np.zeros((2, len(crops.onsets), 68, 2))
    for clip, (onset, apex) in enumerate(zip(*pictures, strict=True)):
        if found := detector.detect(onset):
            before, after = found.points, detector.points_in_box(apex, found.box)
            back = SimilarityTransform()
            back.estimate(after[NOSE_AND_EYES], before[NOSE_AND_EYES])
            moved[:, clip] = after - before, back(after) - before
    return moved.reshape(*moved.shape[:2], -1)


def of_landmarks(clips, features):
    """`score` of the linear SVM on features (n, k), a row a clip."""
    machine = make_pipeline(StandardScaler(), SVC(kernel="linear", class_weight="balanced"))
    return score(clips, lambda train, labels, test: machine.fit(features[train], labels).predict(
        features[test]))


def main():
    """Print both rows."""
    parser = Parser(prog="python -m benchmarks.landmark_svm", description=__doc__)
    parser.add_argument("--dataset", default="synthetic", help="as the training scripts take it [synthetic]")
    parser.add_argument("--data-root", default="data", help="folder of the databases [data]")
    choice = parser.parse_args()
    clips = load_clips(choice.dataset, choice.data_root)
    for name, features in zip(("as they are", "aligned"), movements(face_crops(clips)), strict=True):
        uf1, (low, high), uar = of_landmarks(clips, features)
        print(f"landmarks {name:12} strict UF1 {uf1:.3f} ({low:.3f}-{high:.3f}), UAR {uar:.3f}")


if __name__ == "__main__":
    run_main(main)
