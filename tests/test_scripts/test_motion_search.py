"""The nested search: inner folds never see the held-out subject, and its labels choose nothing."""

import numpy as np

from benchmarks.motion_search import nested, predictions


def problem():
    """40 clips of 10 subjects, 2 classes, linearly separable: kernel, labels, subjects, groups."""
    random = np.random.default_rng(0)
    labels, owner = np.arange(40) % 2, np.arange(40) // 4
    points = random.normal(0, 0.3, (40, 3)) + labels[:, None]
    return points @ points.T, labels, np.array([f"s{i}" for i in owner]), owner % 5


def test_inner_predictions_leave_the_subject_out():
    kernel, labels, subjects, groups = problem()
    outer, inner = predictions(kernel, labels, subjects, groups, 1.0)
    assert (outer == labels).mean() > 0.9 and inner.shape == (10, 40)
    assert ((inner == -1) == (np.unique(subjects)[:, None] == subjects)).all()
    changed = np.where(subjects == "s3", 1 - labels, labels)
    again = predictions(kernel, changed, subjects, groups, 1.0)
    assert (again[1][3] == inner[3]).all() and (again[0][subjects == "s3"] == outer[subjects == "s3"]).all()


def test_the_choice_is_by_the_others():
    labels, subjects = np.array([0, 1, 0, 1]), np.array(["a", "a", "b", "b"])
    right_on_a, right_on_b = np.array([0, 1, 1, 0]), np.array([1, 0, 0, 1])
    found = {"A": (right_on_a, np.stack([right_on_a] * 2)), "B": (right_on_b, np.stack([right_on_b] * 2))}
    predicted, chosen = nested(found, labels, subjects, 2)
    assert chosen == ["B", "A"] and (predicted == [1, 0, 1, 0]).all()      # the honest choice: all wrong here
