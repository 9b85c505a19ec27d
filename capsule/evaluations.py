"""Metrics: per-class recall and F1, UF1, UAR, accuracy, and the interval of UF1 (SPEC section 8)."""

import numpy as np

from common.errors import InputError


def confusion_matrix(y_true, y_pred, classes):
    """Counts (classes, classes), int64: row = true class, column = predicted class.

    y_true, y_pred: equally long sequences of class numbers (list, array or tensor; any shape, read flat).
    Raises: InputError for a label outside 0 … classes−1 or lengths that differ.
    """
    y_true, y_pred = _labels(y_true, classes, "true"), _labels(y_pred, classes, "predicted")
    if len(y_true) != len(y_pred):
        raise InputError(f"{len(y_true)} true and {len(y_pred)} predicted labels: give one of each per clip")
    return np.bincount(y_true * classes + y_pred, minlength=classes**2).reshape(classes, classes)


def _labels(values, classes, kind):
    values = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    labels = values.ravel().astype(np.int64)
    wrong = (labels != values.ravel()) | (labels < 0) | (labels >= classes)
    if wrong.any():
        raise InputError(f"{kind} label {values.ravel()[wrong][0]}: outside the classes 0 to {classes - 1}; "
                         "check the clip table and --classes")
    return labels


def recall_and_f1(confusion):
    """Per-class recall TP/n and F1 2TP/(2TP+FP+FN) of count matrices (..., classes, classes).

    Both (..., classes), float64. A class without clips has recall 0; one that occurs neither in truth nor in
    predictions has F1 0.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    n_true, n_predicted = confusion.sum(-1), confusion.sum(-2)
    recall = np.divide(hits, n_true, out=np.zeros_like(hits), where=n_true > 0)
    both = n_true + n_predicted                                           # = 2TP + FP + FN
    return recall, np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0)


def _uf1_of_occurring(confusion):
    """UF1 over the classes that occur in truth or predictions: (..., classes, classes) → (...)."""
    occurs = confusion.sum(-1) + confusion.sum(-2) > 0
    f1 = recall_and_f1(confusion)[1]          # 0 where a class does not occur
    return f1.sum(-1) / np.maximum(occurs.sum(-1), 1)


class Meter:
    """Collects predictions and scores them. `classes`: number of classes."""

    def __init__(self, classes):
        self.classes = classes
        self.reset()

    def reset(self):
        """Forget all predictions."""
        self._confusion = np.zeros((self.classes, self.classes), np.int64)

    def add(self, y_true, y_pred):
        """Add class numbers of one or more clips. Raises: InputError (see `confusion_matrix`)."""
        self._confusion += confusion_matrix(y_true, y_pred, self.classes)

    def value(self):
        """Per-class recall and per-class F1, two float arrays (classes,); see `recall_and_f1`."""
        return recall_and_f1(self._confusion)

    def confusion(self):
        """A copy of the counts, int64 (classes, classes): row = true class, column = predicted class."""
        return self._confusion.copy()

    @property
    def uf1(self):
        """Unweighted F1: mean of the per-class F1 over all classes."""
        return float(self.value()[1].mean())

    @property
    def uar(self):
        """Unweighted average recall: mean of the per-class recall over all classes."""
        return float(self.value()[0].mean())

    @property
    def accuracy(self):
        """Share of right predictions; 0 when there are none."""
        return float(np.trace(self._confusion) / max(1, self._confusion.sum()))

    @property
    def subject_uf1(self):
        """UF1 over the classes that occur in truth or predictions: the score of a single subject."""
        return float(_uf1_of_occurring(self._confusion))

    @property
    def subject_uar(self):
        """UAR over the classes that occur in truth."""
        n_true = self._confusion.sum(1)
        return float(self.value()[0].sum() / max(1, (n_true > 0).sum()))


def subject_uf1(y_true, y_pred, classes):
    """UF1 over the classes that occur in truth or predictions, of one subject's labels."""
    return float(_uf1_of_occurring(confusion_matrix(y_true, y_pred, classes)))


def bootstrap_uf1(y_true, y_pred, subjects, n=2000, seed=0, classes=None):
    """95 % interval of UF1 (low, high), drawing whole subjects with replacement `n` times.

    Clips of one person are not independent, people are: the subject is the unit that is drawn (percentile
    interval; Efron and Tibshirani 1993). subjects: one name per clip. classes: default the largest label + 1.
    A draw without any clip or prediction of a class is scored over the classes it has.
    Raises: InputError for labels outside the classes, lengths that differ, or no clips.
    """
    names, owner = np.unique(np.asarray(subjects), return_inverse=True)
    if not len(owner) or len(owner) != len(y_true):
        raise InputError(f"{len(owner)} subject names for {len(y_true)} clips: give one for each clip")
    classes = classes or 1 + int(max(np.max(y_true), np.max(y_pred)))
    true, predicted = _labels(y_true, classes, "true"), _labels(y_pred, classes, "predicted")
    counts = np.zeros((len(names), classes, classes), np.int64)
    np.add.at(counts, (owner, true, predicted), 1)
    times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    drawn = np.tensordot(times, counts, axes=1)                           # (n, S) · (S, C, C) → (n, C, C)
    low, high = np.quantile(_uf1_of_occurring(drawn), [0.025, 0.975])
    return float(low), float(high)
