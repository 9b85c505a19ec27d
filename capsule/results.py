"""What the runs left under `result/`, read and checked, and the two tables of SPEC section 8.

A result folder may come from somewhere else, so nothing in it is trusted: only JSON is opened, every value is
checked before use, and no name or link leads out of the folder.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from capsule.evaluations import Meter
from common.errors import InputError
from common.files import read_json

EVALUATIONS = ("strict", "paper")     # strict first: it is the default wherever one number is shown
DATABASES = ("casme", "smic", "samm")
LOG_COLUMNS = ["experiment", "dataset", "evaluation", "subject", "clips", "accuracy", "uf1", "uar"]
PREDICTION_COLUMNS = ["experiment", "evaluation", "data", "subject", "clip", "y_true", "y_pred", "epoch"]
KEY = ["data", "subject", "clip"]


@dataclass(frozen=True)
class Fold:
    """A finished fold: n test clips, E epochs, C classes."""

    data_sub: str
    clips: tuple                  # n of (data, subject, clip)
    y_true: np.ndarray            # (n,) int64
    predictions: dict             # evaluation -> (E, n) int64
    loss: np.ndarray              # (E,) mean training loss of each epoch
    lengths: np.ndarray           # (n, C) capsule lengths, or class probabilities; strict, last epoch


@dataclass(frozen=True)
class Run:
    """One experiment folder. `facts` is its experiment.json; `notes` are lines that a person should read."""

    name: str
    folder: Path
    facts: dict
    clips: pd.DataFrame           # data, subject, clip, data_sub, label: the whole clip list
    folds: tuple                  # every data_sub, in order
    finished: dict                # data_sub -> Fold, in the order of `folds`
    failed: dict                  # data_sub -> reason
    notes: tuple

    @property
    def classes(self):
        """Number of classes."""
        return self.facts["classes"]

    @property
    def missing(self):
        """The folds without a usable result, in order."""
        return tuple(name for name in self.folds if name not in self.finished)

    @property
    def dataset(self):
        """The dataset's name; invented data says so whatever its name."""
        name = self.facts["dataset"]
        return f"{name} SYNTHETIC" if self.facts["synthetic"] and name != "synthetic" else name

    @property
    def labels(self):
        """Words that must stand beside each number and figure of this run: SYNTHETIC, quick."""
        marks = (("SYNTHETIC", self.facts["synthetic"]), ("quick", self.facts["quick"]))
        return tuple(word for word, there in marks if there)


def read_runs(root):
    """Every experiment under `root`, by name: (list of Run, dict of folder name → why it could not be read).

    Raises: InputError when there is no experiment, or none that can be read.
    """
    root = Path(root)
    runs, broken = [], {}
    for name in sorted(path.parent.name for path in root.glob("*/experiment.json")):
        try:
            runs.append(read_run(root, name))
        except InputError as error:
            broken[name] = f"{error} (experiment left out)"
    if not runs:
        raise InputError(next(iter(broken.values()), f"{root}: no experiment there; run a training script "
                         "first, such as `python train_me_loso.py --dataset synthetic --quick`"))
    return runs, broken


def select(runs, broken, names):
    """The runs called `names`; all when `names` is empty.

    Raises: InputError when one is not there, or is in `broken`.
    """
    there = {run.name: run for run in runs}
    for name in names:
        if name not in there:
            known = ", ".join(there)
            raise InputError(broken.get(name, f"--experiment {name}: no such experiment; there are {known}"))
    return [there[name] for name in dict.fromkeys(names)] if names else list(runs)


def read_run(root, name):
    """The experiment `<root>/<name>/` as a Run. Folds that cannot be used become notes and count as missing.

    Raises: InputError, naming the file, when experiment.json is missing, broken or contradicts itself.
    """
    _check_name(name, f"{root}: folder")
    folder = Path(root) / name
    path = check_inside(root, folder / "experiment.json")
    facts = read_json(path)
    clips = _check_facts(facts, path)
    finished, failed, notes = {}, {}, []
    for data_sub in facts["folds"]:
        path = folder / "folds" / f"{data_sub}.json"
        failure = folder / "failed" / f"{data_sub}.json"
        try:
            if path.exists():
                finished[data_sub] = read_fold(check_inside(root, path), data_sub, facts, clips)
            elif failure.exists():
                failed[data_sub] = _failure(read_json(check_inside(root, failure)))
        except InputError as error:
            notes.append(f"{error} (fold left out, counted as missing)")
    known = set(facts["folds"])
    notes += [f"{path}: not a fold of this experiment (left out)"
              for path in sorted((folder / "folds").glob("*.json")) if path.stem not in known]
    return Run(name, folder, facts, clips, tuple(facts["folds"]), finished, failed, tuple(notes))


def read_fold(path, data_sub, facts, clips):
    """The fold file `path` as a Fold, checked against the experiment's `facts` and clip table.

    Raises: InputError, naming the file, for anything that is not a whole fold of this very experiment.
    """
    value = read_json(path)
    rows = clips[clips["data_sub"] == data_sub].set_index(KEY)["label"]

    def need(holds, what):
        if not holds:
            raise InputError(f"{path}: {what}; remove it and run the experiment again")

    need(isinstance(value, dict), "not a fold file")
    need(value.get("config") == facts["config"], "made with another configuration than experiment.json's")
    need(value.get("experiment") == facts["experiment"] and value.get("data_sub") == data_sub,
         "belongs to another experiment or subject")
    listed = value.get("clips")
    need(isinstance(listed, list) and all(isinstance(c, dict) for c in listed), "has no list of clips")
    keys = tuple(tuple(clip.get(part) for part in KEY) for clip in listed)
    need(all(isinstance(part, str) for key in keys for part in key), "has clips without a name")
    need(len(set(keys)) == len(keys) and set(keys) == set(rows.index), "its clips are not this subject's")
    n, classes = len(keys), facts["classes"]
    y_true = value.get("y_true")
    need(_is_labels(y_true, n, classes), f"y_true is not {n} labels from 0 to {classes - 1}")
    need(y_true == [int(rows[key]) for key in keys], "its labels are not the experiment's")
    loss = value.get("loss")
    need(isinstance(loss, list) and loss and _is_numbers(loss), "loss is not a list of numbers")
    for evaluation in EVALUATIONS:
        rounds = value.get(evaluation)
        need(isinstance(rounds, list) and len(rounds) == len(loss)
             and all(_is_labels(row, n, classes) for row in rounds),
             f"{evaluation} is not {len(loss)} epochs of {n} labels from 0 to {classes - 1}")
    lengths = value.get("lengths")
    need(isinstance(lengths, list) and len(lengths) == n
         and all(isinstance(row, list) and len(row) == classes and _is_numbers(row) for row in lengths),
         f"lengths is not {n} lists of {classes} numbers")
    predictions = {name: np.array(value[name], dtype=np.int64) for name in EVALUATIONS}
    return Fold(data_sub, keys, np.array(y_true, dtype=np.int64), predictions,
                np.array(loss, dtype=float), np.array(lengths, dtype=float))


def check_inside(root, path):
    """`path`, when it lies in `root` after links are followed. Raises: InputError otherwise."""
    if not path.resolve().is_relative_to(Path(root).resolve()):
        raise InputError(f"{path}: a link that leads out of {root}; copy the folder there instead")
    return path


def _check_name(name, where):
    """Raise InputError unless `name` is a plain, printable file name."""
    plain = isinstance(name, str) and name.isprintable() and name not in ("", ".", "..")
    if not plain or any(mark in name for mark in "/\\"):
        raise InputError(f"{where}: {name!r} is not a plain name")


def _check_facts(facts, path):
    """The clip table of an experiment.json value, which is checked. Raises: InputError naming `path`."""

    def need(holds, what):
        if not holds:
            raise InputError(f"{path}: {what}; remove the folder or run the experiment again")

    need(isinstance(facts, dict), "not an experiment file")
    for name in ("experiment", "script", "dataset"):
        _check_name(facts.get(name), f"{path}: {name}")
    need(all(isinstance(facts.get(name), bool) for name in ("synthetic", "quick")),
         "synthetic and quick must be true or false")
    classes, names = facts.get("classes"), facts.get("class_names")
    need(_is_labels([classes], 1, 100) and classes > 1, "classes is not a number of classes")
    need(isinstance(names, list) and len(names) == classes, f"class_names is not {classes} names")
    need(_is_labels([facts.get("seed")], 1, math.inf), "seed is not a whole number")
    need(isinstance(facts.get("config"), dict), "has no config")
    rows, folds = facts.get("clips"), facts.get("folds")
    need(isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows), "has no clip list")
    need(isinstance(folds, list) and folds, "has no list of folds")
    for name in [*names, *folds, *(row.get(part) for row in rows for part in (*KEY, "data_sub"))]:
        _check_name(name, path)
    need(_is_labels([row.get("label") for row in rows], len(rows), classes),
         f"a clip's label is not from 0 to {classes - 1}")
    clips = pd.DataFrame(rows)[[*KEY, "data_sub", "label"]]
    need(not clips.duplicated(KEY).any(), "names a clip twice")
    need(len(set(folds)) == len(folds) and set(folds) == set(clips["data_sub"]),
         "its folds are not the subjects of its clips")
    return clips


def _failure(value):
    """The reason that a failed fold's file gives, as one printable line."""
    reason = str(value.get("reason", "no reason given")) if isinstance(value, dict) else "no reason given"
    seed = value.get("fold_seed") if isinstance(value, dict) else None
    text = " ".join("".join(c if c.isprintable() else " " for c in reason).split())
    return f"{text} (fold seed {seed})" if isinstance(seed, int) else text


def _is_labels(values, count, classes):
    """Whether `values` is a list of `count` whole numbers from 0 to classes - 1."""
    return (isinstance(values, list) and len(values) == count
            and all(type(value) is int and 0 <= value < classes for value in values))


def _is_numbers(values):
    """Whether every value is a number that a float can hold (not nan, not infinite)."""
    return all(type(value) in (int, float) and -1e300 < value < 1e300 for value in values)


def epoch_used(fold, evaluation, classes):
    """1-based epoch whose predictions count: the last one; under `paper` the subject's best test UF1.

    Best means the highest mean F1 over all classes, the later one when equal (SPEC section 7). It leaks the
    test fold.
    """
    rounds = fold.predictions[evaluation]
    if evaluation == "strict":
        return len(rounds)
    uf1 = [_meter(fold.y_true, row, classes).uf1 for row in rounds]
    return max(range(len(rounds)), key=lambda epoch: (uf1[epoch], epoch)) + 1


def _meter(y_true, y_pred, classes):
    meter = Meter(classes)
    meter.add(y_true, y_pred)
    return meter


def predictions(run, evaluation):
    """The pooled predictions of the finished folds: DataFrame with PREDICTION_COLUMNS and data_sub, one row
    a clip, in the order of the folds."""
    rows = []
    for fold in run.finished.values():
        epoch = epoch_used(fold, evaluation, run.classes)
        labels = zip(fold.clips, fold.y_true.tolist(), fold.predictions[evaluation][epoch - 1].tolist(),
                     strict=True)
        rows += [(run.name, evaluation, *clip, true, predicted, epoch, fold.data_sub)
                 for clip, true, predicted in labels]
    return pd.DataFrame(rows, columns=[*PREDICTION_COLUMNS, "data_sub"])


def parts(run, table):
    """The totals of SPEC section 8: list of (name, rows of `table`); "ALL", then each database of a composite
    that has a row."""
    whole = [("ALL", table)]
    if run.facts["dataset"] != "composite":
        return whole
    there = [name for name in DATABASES if (table["data"] == name).any()]
    return whole + [(name, table[table["data"] == name]) for name in there]


def scores(table, classes):
    """(accuracy, UF1, UAR) of a table with y_true and y_pred, over all classes."""
    meter = _meter(table["y_true"].to_numpy(), table["y_pred"].to_numpy(), classes)
    return meter.accuracy, meter.uf1, meter.uar


def subject_scores(table, classes):
    """(accuracy, UF1, UAR) of one subject: over the classes that occur (UAR: in its truth)."""
    meter = _meter(table["y_true"].to_numpy(), table["y_pred"].to_numpy(), classes)
    return meter.accuracy, meter.subject_uf1, meter.subject_uar


def result_log(runs):
    """SPEC section 8's result_log.csv: DataFrame with LOG_COLUMNS; each run's subjects, then its totals."""
    rows = []
    for run in runs:
        for evaluation in EVALUATIONS:
            table = predictions(run, evaluation)
            start = (run.name, run.dataset, evaluation)
            rows += [(*start, data_sub, len(own), *subject_scores(own, run.classes))
                     for data_sub, own in table.groupby("data_sub", sort=False)]
            rows += [(*start, name, len(own), *scores(own, run.classes))
                     for name, own in parts(run, table) if len(own)]
    return pd.DataFrame(rows, columns=LOG_COLUMNS).round(6)


def prediction_log(runs):
    """SPEC section 8's predictions.csv: DataFrame with PREDICTION_COLUMNS."""
    tables = [predictions(run, evaluation) for run in runs for evaluation in EVALUATIONS]
    return pd.concat(tables, ignore_index=True)[PREDICTION_COLUMNS]


def clip_list_key(run):
    """What two runs share when they are judged on the same clips: text."""
    return json.dumps([run.facts["dataset"], run.facts["synthetic"], run.facts["class_names"],
                       sorted(run.clips.astype(str).agg("/".join, axis=1))])


def sibling_key(run):
    """What two runs share when only their seeds differ: text."""
    config = {name: value for name, value in run.facts["config"].items() if name != "seed"}
    return json.dumps([clip_list_key(run), run.facts["script"], run.facts["quick"], config], sort_keys=True)
