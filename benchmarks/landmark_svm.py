"""How far points of the face alone get, without a network: a linear SVM on them.

    python -m benchmarks.landmark_svm [--dataset synthetic] [--protocol dsnca] [--data-root data]

takes ten seconds, for the 435 real clips 80 on a CPU core, and prints strict UF1 of up to five rows,
and how far the last lies above the others of the apex (paired over subjects).

Two rows of motion, where every clip has its onset: how the 68 landmarks move from onset to apex (the face is
found in the onset's crop and followed in the same box), as they are and aligned (the apex's brought onto the
onset's by a similarity of nose and eyes). Three rows of the apex alone: where the 68 landmarks lie in its
crop; where the 468 points of the face mesh do; and these in 3-D, turned to the front, as the views show them.
Each coordinate standardised, classes balanced, C = 1, leave-one-subject-out. (The demo's database: motion
.725 and, aligned, .519; other C, other kinds of linear SVM, coordinates as they are gave .62 to .76.)
"""

import numpy as np
from skimage.transform import SimilarityTransform
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from benchmarks.head_motion import apexes, score
from capsule.data import load_clips
from capsule.inputs import face_crops
from capsule.metrics import paired_uf1
from common.console import Parser, run_main
from common.errors import InputError
from deca import make_reconstructor
from deca.landmarks import LandmarkDetector

NOSE_AND_EYES = range(27, 48)


def movements(crops):
    """How the landmarks of each of n clips move, pixels of the crop: (2, n, 136), as they are and aligned.

    crops: of the apexes alone, in the order of the clips, here and below. 0 where the onset shows no face.
    Raises: InputError when a clip's onset is not on disk.
    """
    if not crops.has_onset.all():
        raise InputError(f"{int((~crops.has_onset).sum())} clips have no onset frame on disk; lay them there")
    pictures = [images.permute(0, 2, 3, 1).numpy() for images in (crops.onsets, crops.images)]
    detector, moved = LandmarkDetector(), np.zeros((2, len(crops.onsets), 68, 2))
    for clip, (onset, apex) in enumerate(zip(*pictures, strict=True)):
        if found := detector.detect(onset):
            before, after = found.points, detector.points_in_box(apex, found.box)
            back = SimilarityTransform()
            back.estimate(after[NOSE_AND_EYES], before[NOSE_AND_EYES])
            moved[:, clip] = after - before, back(after) - before
    return moved.reshape(*moved.shape[:2], -1)


def landmarks(crops):
    """The 68 landmarks of each of n apexes, pixels of the crop: (n, 136), nan where no face is found."""
    found = map(LandmarkDetector().detect, crops.images.permute(0, 2, 3, 1).numpy())
    return np.stack([np.full(136, np.nan) if face is None else face.points.ravel() for face in found])


def mesh_points(crops):
    """The 468 points of each of n apexes' faces: in the crop, (n, 936) image space; in 3-D, turned to the
    front, (n, 1404) metres."""
    maker = make_reconstructor("mesh", "cpu")
    faces, _ = maker.mesh(maker.reconstruct(crops.images), "coarse")       # each looked at for itself
    return faces.posed()[..., :2].flatten(1).numpy(), faces.vertices.flatten(1).numpy()


def of_points(clips, features):
    """`score` of the linear SVM on features (n, k), a row a clip; nan counts as the mean of the others."""
    machine = make_pipeline(SimpleImputer(), StandardScaler(), SVC(kernel="linear", class_weight="balanced"))
    return score(clips, lambda train, labels, test: machine.fit(features[train], labels).predict(
        features[test]))


def main():
    """Print the rows."""
    parser = Parser(prog="python -m benchmarks.landmark_svm", description=__doc__)
    parser.add_argument("--dataset", default="synthetic", help="as the training scripts take it [synthetic]")
    parser.add_argument("--protocol", default="dsnca", help="likewise [dsnca]")
    parser.add_argument("--data-root", default="data", help="folder of the databases [data]")
    choice = parser.parse_args()
    clips = load_clips(choice.dataset, choice.data_root, protocol=choice.protocol)
    crops, rows = apexes(face_crops(clips)), {}
    try:
        rows = dict(zip(("motion of landmarks", "the same, aligned"), movements(crops), strict=True))
    except InputError as error:
        print(f"no motion of landmarks: {error}")
    flat, solid = mesh_points(crops)
    rows |= {"apex: landmarks": landmarks(crops), "apex: 468 points": flat, "apex: 468 points, 3-D": solid}
    predicted = {}
    for name, features in rows.items():
        uf1, (low, high), uar, predicted[name] = of_points(clips, features)
        print(f"{name:24} strict UF1 {uf1:.3f} ({low:.3f}-{high:.3f}), UAR {uar:.3f}", flush=True)
    last, subjects = predicted["apex: 468 points, 3-D"], clips.table["data_sub"]
    for name in ("apex: landmarks", "apex: 468 points"):
        gain, low, high = paired_uf1(clips.labels, last, [predicted[name]], subjects, clips.n_classes)
        print(f"3-D over {name:15} {gain:+.3f} ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    run_main(main)
