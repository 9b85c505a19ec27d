"""Metrics: per-class precision, recall, F1; UF1, UAR, accuracy; the interval of UF1 (SPEC section 8)."""

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
    values = np.ravel(values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values))
    labels = values.astype(np.int64)
    wrong = (labels != values) | (labels < 0) | (labels >= classes)
    if wrong.any():
        raise InputError(f"{kind} label {values[wrong][0]}: outside the classes 0 to {classes - 1}; "
                         "check the clip table and --classes")
    return labels


def _share(part, whole):
    """part / whole, float64; 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


def recall_and_f1(confusion):
    """Per-class recall TP/n and F1 2TP/(2TP+FP+FN) of count matrices (..., classes, classes).

    Both (..., classes), float64. A class without clips has recall 0; one that occurs neither in truth nor in
    predictions has F1 0.
    """
    hits, n_true = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1)
    return _share(hits, n_true), _share(2 * hits, n_true + confusion.sum(-2))


def uf1_of_rounds(y_true, rounds, classes):
    """UF1 over all classes of several rounds of predictions for the same clips: (n,), (E, n) → (E,)."""
    counts = np.zeros((len(rounds), classes, classes), np.int64)
    np.add.at(counts, (np.arange(len(rounds))[:, None], y_true, rounds), 1)
    return recall_and_f1(counts)[1].mean(-1)


class Meter:
    """Collects predictions and scores them. `classes`: number of classes; labels may be given at once."""

    def __init__(self, classes=3, y_true=(), y_pred=()):
        self.classes = classes
        self._confusion = np.zeros((classes, classes), np.int64)
        self.add(y_true, y_pred)

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
    def precision(self):
        """Per-class precision TP/predicted, (classes,); 0 for a class that is never predicted."""
        return _share(np.diagonal(self._confusion), self._confusion.sum(0))

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
        occurs = self._confusion.sum(0) + self._confusion.sum(1) > 0
        return float(self.value()[1].sum() / max(1, occurs.sum()))

    @property
    def subject_uar(self):
        """UAR over the classes that occur in truth."""
        occurs = self._confusion.sum(1) > 0
        return float(self.value()[0].sum() / max(1, occurs.sum()))


def bootstrap_uf1(y_true, y_pred, subjects, classes, n=2000, seed=0):
    """95 % interval of UF1 (low, high), drawing whole subjects with replacement `n` times.

    Clips of one person are not independent, people are: the subject is the unit that is drawn (percentile
    interval; Efron and Tibshirani 1993). subjects: one name per clip. Each draw is scored as `Meter.uf1`,
    over all classes; one that a draw lacks counts 0 in it.
    Raises: InputError for labels outside the classes, lengths that differ, or no clips.
    """
    return _interval(_drawn_uf1(y_true, y_pred, subjects, classes, n, seed))


def paired_uf1(y_true, y_pred, others, subjects, classes, n=2000, seed=0):
    """How far the UF1 of `y_pred` lies above the mean UF1 of several predictions `others` of the same clips.

    Returns: (difference, low, high), the 95 % interval with the same subjects drawn for all. The rest and
    Raises: as for `bootstrap_uf1`.
    """
    gain = Meter(classes, y_true, y_pred).uf1 - np.mean([Meter(classes, y_true, one).uf1 for one in others])
    drawn, *of_others = (_drawn_uf1(y_true, one, subjects, classes, n, seed) for one in (y_pred, *others))
    return float(gain), *_interval(drawn - np.mean(of_others, 0))


def _interval(values):
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _drawn_uf1(y_true, y_pred, subjects, classes, n, seed):
    """UF1 of each draw, (n,); the same seed draws the same subjects."""
    names, owner = np.unique(np.asarray(subjects), return_inverse=True)
    true, predicted = _labels(y_true, classes, "true"), _labels(y_pred, classes, "predicted")
    if not len(owner) == len(true) == len(predicted) > 0:
        raise InputError(f"{len(owner)} subject names, {len(true)} true and {len(predicted)} predicted "
                         "labels: give one of each per clip")
    counts = np.zeros((len(names), classes, classes), np.int64)
    np.add.at(counts, (owner, true, predicted), 1)
    times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    drawn = np.tensordot(times, counts, axes=1)                           # (n, S) · (S, C, C) → (n, C, C)
    return recall_and_f1(drawn)[1].mean(-1)
