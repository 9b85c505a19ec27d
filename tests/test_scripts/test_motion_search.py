"""The nested search: inner folds never see the held-out subject, and its labels choose nothing."""

import numpy as np

from benchmarks.motion_search import Kernel, nested, predictions
from capsule.modules.svm import SVM


def problem():
    """40 clips of 10 subjects, 2 classes, linearly separable: kernel, labels, subjects, groups."""
    random = np.random.default_rng(0)
    labels, owner = np.arange(40) % 2, np.arange(40) // 4
    points = random.normal(0, 0.3, (40, 3)) + labels[:, None]
    return points @ points.T, labels, np.array([f"s{i}" for i in owner]), owner % 5


def test_inner_predictions_leave_the_subject_out():
    kernel, labels, subjects, groups = problem()

    def found(labels):
        of = lambda train, wanted: (kernel[np.ix_(train, train)], kernel[np.ix_(wanted, train)])  # noqa: E731
        return predictions(of, labels, subjects, groups, [(1.0, False)])[1.0, False]

    outer, inner = found(labels)
    assert (outer == labels).mean() > 0.9 and inner.shape == (10, 40)
    assert ((inner == -1) == (np.unique(subjects)[:, None] == subjects)).all()
    again = found(np.where(subjects == "s3", 1 - labels, labels))
    assert (again[1][3] == inner[3]).all() and (again[0][subjects == "s3"] == outer[subjects == "s3"]).all()


def test_widths_come_from_the_pictures_learnt_from():
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 28, 28)).astype(np.uint8)
    images[9:] = 128 + (images[9:] - 128.0) / 8      # held out, and of another size
    train, machine = np.arange(12) < 9, SVM(3)
    known, wanted = Kernel(machine, images).of(train, ~train)
    np.testing.assert_allclose(known, machine.known_kernel(images[train]), rtol=1e-5)
    np.testing.assert_allclose(wanted, machine.alike(images[~train]), rtol=1e-5)


def test_the_choice_is_by_the_others():
    labels, subjects = np.array([0, 1, 0, 1]), np.array(["a", "a", "b", "b"])
    right_on_a, right_on_b = np.array([0, 1, 1, 0]), np.array([1, 0, 0, 1])
    found = {"A": (right_on_a, np.stack([right_on_a] * 2)), "B": (right_on_b, np.stack([right_on_b] * 2))}
    predicted, chosen = nested(found, labels, subjects, 2)
    assert chosen == ["B", "A"] and (predicted == [1, 0, 1, 0]).all()      # the honest choice: all wrong here
