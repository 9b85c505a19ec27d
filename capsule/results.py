"""What the runs left under `result/`, read once and checked once, and the tables that are written from it.

A file is used when it is JSON of this very experiment; anything else is named in a note and counts as
missing. Only JSON is opened, and no name or link leads out of the folder.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from capsule.metrics import Meter, uf1_of_rounds
from common.errors import InputError
from common.files import read_json
from common.names import plain_name

EVALUATIONS = ("strict", "paper")     # strict first: it is the default wherever one number is shown
DATABASES = ("casme", "smic", "samm")
LOG_COLUMNS = ["experiment", "dataset", "evaluation", "subject", "clips", "accuracy", "uf1", "uar"]
PREDICTION_COLUMNS = ["experiment", "evaluation", "data", "subject", "clip", "y_true", "y_pred", "epoch"]
CLASS_COLUMNS = ["experiment", "dataset", "evaluation", "class", "clips", "predicted", "precision", "recall",
                 "f1"]
KEY = ["data", "subject", "clip"]
# What looking into a JSON value of another shape can raise.
OTHER_SHAPE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Fold:
    """A finished fold: n test clips, E epochs, C classes."""

    data_sub: str
    clips: tuple                  # n of (data, subject, clip)
    y_true: np.ndarray            # (n,) int64
    predictions: dict             # evaluation -> (E, n) int64
    loss: np.ndarray              # (E,) mean training loss of each epoch
    lengths: np.ndarray           # (n, C) capsule lengths, class probabilities or logits; strict, last epoch


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
    clip_list: str                # equal for runs that are judged on the same clips
    family: str                   # equal for runs that differ in their seed alone
    remarks: tuple                # what a reader of the numbers should know: (line, number of clips)

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
    for name in sorted(path.parent.name for path in root.glob("[!.]*/experiment.json")):
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
            raise InputError(broken.get(name, f"{name}: no such experiment; there are {known}"))
    return [there[name] for name in dict.fromkeys(names)] if names else list(runs)


def read_run(root, name):
    """The experiment `<root>/<name>/` as a Run. Folds that cannot be used become notes and count as missing.

    Raises: InputError, naming the file, when experiment.json is missing, broken or contradicts itself.
    """
    folder = Path(root) / plain_name(name, root)
    path = check_inside(root, folder / "experiment.json")
    facts = read_json(path)
    try:
        checked = _check_facts(facts, path)
    except OTHER_SHAPE as error:
        raise InputError(f"{path}: not an experiment file ({_reason(error)}); remove the folder or run the "
                         "experiment again") from error
    folds, failures = _files(folder / "folds"), _files(folder / "failed")
    finished, failed, notes = {}, {}, []
    for data_sub in facts["folds"]:
        try:
            if data_sub in folds:
                finished[data_sub] = read_fold(check_inside(root, folds[data_sub]), data_sub, facts,
                                               checked["clips"])
            elif data_sub in failures:
                failed[data_sub] = _failure(check_inside(root, failures[data_sub]))
        except InputError as error:
            notes.append(f"{error} (fold left out, counted as missing)")
    notes += [f"{one_line(path)}: not a fold of this experiment (left out)"
              for data_sub, path in folds.items() if data_sub not in facts["folds"]]
    return Run(name, folder, facts, folds=tuple(facts["folds"]), finished=finished, failed=failed,
               notes=tuple(notes), **checked)


def _files(folder):
    """The JSON files of a folder by their stem, in order; leftovers of killed writers begin with a dot."""
    return {path.stem: path for path in sorted(folder.glob("[!.]*.json"))}


def check_inside(root, path):
    """`path`, when it lies in `root` after links are followed. Raises: InputError otherwise."""
    try:
        inside = path.resolve().is_relative_to(Path(root).resolve())
    except (OSError, RuntimeError) as error:    # a circle of links
        raise InputError(f"{path}: a link that leads nowhere; remove it") from error
    if not inside:
        raise InputError(f"{path}: a link that leads out of {root}; copy the folder there instead")
    return path


def _check_facts(facts, path):
    """Check an experiment.json value. Returns: dict of Run's clips, clip_list, family and remarks.

    Raises: InputError or one of OTHER_SHAPE when it is no such value.
    """
    _need(all(type(facts[name]) is list for name in ("class_names", "folds")), "has no lists of names")
    for name in (facts["experiment"], facts["script"], facts["dataset"], *facts["class_names"],
                 *facts["folds"]):
        plain_name(name, path)
    clips = pd.DataFrame(facts["clips"])[[*KEY, "data_sub", "label"]]
    for name in pd.unique(clips[[*KEY, "data_sub"]].to_numpy().ravel()):
        plain_name(name, path)
    classes = facts["classes"]
    _need(type(classes) is int and classes == len(facts["class_names"]) > 1, "classes and class_names differ")
    _labels(clips["label"].to_list(), (len(clips),), classes, "label")
    _need(type(facts["seed"]) is int, "seed is not a whole number")
    _need(not clips.duplicated(KEY).any(), "names a clip twice")
    _need(sorted(facts["folds"]) == sorted(set(clips["data_sub"])), "its folds are not its clips' subjects")
    clip_list = json.dumps([facts["dataset"], facts["synthetic"], facts["class_names"],
                            sorted(clips.astype(str).agg("/".join, axis=1))])
    config = {name: value for name, value in facts["config"].items() if name != "seed"}
    family = json.dumps([clip_list, facts["script"], facts["quick"], config], sort_keys=True)
    return {"clips": clips, "clip_list": clip_list, "family": family, "remarks": _remarks(facts)}


def _remarks(facts):
    """Run's remarks from experiment.json's notes, and from weights that were asked for and not found."""
    told = [(one_line(note["what"]), int(note["count"])) for note in facts.get("notes") or ()]
    weights = facts.get("weights") or {}
    asked, found = weights.get("asked"), weights.get("found")
    return (*told, *([(one_line(f"weights: {asked} asked for, {found} found"), 0)] if asked != found else []))


def _failure(path):
    """The reason that a failed fold's file gives, as one line. Raises: InputError when it is not JSON."""
    value = read_json(path)
    reason, seed = value.get("reason"), value.get("fold_seed")
    text = one_line(reason) if isinstance(reason, str) else "no reason given"
    return f"{text} (fold seed {seed})" if isinstance(seed, int) else text


def read_fold(path, data_sub, facts, clips):
    """The fold file `path` as a Fold of the experiment that `facts` and its clip table describe.

    facts: needs experiment, config (as JSON gives it) and classes. clips: DataFrame with data, subject, clip,
    data_sub, label.
    Raises: InputError, naming the file, for anything that is not a whole fold of this very experiment.
    """
    value = read_json(path)
    try:
        return _fold(value, data_sub, facts, clips[clips["data_sub"] == data_sub].set_index(KEY)["label"])
    except OTHER_SHAPE as error:
        raise InputError(f"{path}: not a fold of {facts['experiment']} ({_reason(error)}); remove it or run "
                         "the experiment again") from error


def _fold(value, data_sub, facts, labels):
    """A fold file's value as a Fold; `labels`: the subject's labels by clip. Raises: one of OTHER_SHAPE."""
    _need(value["config"] == facts["config"], "made with another configuration than experiment.json's")
    _need((value["experiment"], value["data_sub"]) == (facts["experiment"], data_sub),
          "of another experiment or subject")
    keys = tuple(tuple(clip[part] for part in KEY) for clip in value["clips"])
    _need(sorted(keys) == sorted(labels.index), "its clips are not this subject's")
    n, epochs, classes = len(keys), len(value["loss"]), facts["classes"]
    y_true = _labels(value["y_true"], (n,), classes, "y_true")
    _need(y_true.tolist() == [labels[key] for key in keys], "its labels are not the experiment's")
    predictions = {name: _labels(value[name], (epochs, n), classes, name) for name in EVALUATIONS}
    return Fold(data_sub, keys, y_true, predictions, _numbers(value["loss"], (max(epochs, 1),), "loss"),
                _numbers(value["lengths"], (n, classes), "lengths"))


def _need(holds, what):
    if not holds:
        raise ValueError(what)


def _labels(values, shape, classes, what):
    """`values` as int64 of `shape`, each from 0 to classes − 1. Raises: ValueError."""
    found = np.array(values)
    _need(found.shape == shape and found.dtype == np.int64 and ((found >= 0) & (found < classes)).all(),
          f"{what} is not {' × '.join(map(str, shape))} labels from 0 to {classes - 1}")
    return found


def _numbers(values, shape, what):
    """`values` as float64 of `shape`, finite. Raises: ValueError, TypeError, OverflowError."""
    found = np.array(values)
    _need(found.shape == shape and found.dtype.kind in "if" and np.isfinite(found).all(),
          f"{what} is not {' × '.join(map(str, shape))} finite numbers")
    return found.astype(float)


def one_line(text):
    """`text` as one printable line of at most 200 characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:200]


def _reason(error):
    """What was wrong with a JSON value, from one of OTHER_SHAPE."""
    return one_line(f"no {error}" if isinstance(error, KeyError) else error)


def epoch_used(fold, evaluation, classes):
    """1-based epoch whose predictions count: the last one; under `paper` the subject's best test UF1.

    Best means the highest mean F1 over all classes, the later one when equal (SPEC section 7). It leaks the
    test fold.
    """
    rounds = fold.predictions[evaluation]
    if evaluation == "strict":
        return len(rounds)
    uf1 = uf1_of_rounds(fold.y_true, rounds, classes).round(12)
    return int(np.flatnonzero(uf1 == uf1.max())[-1]) + 1


def predictions(run, evaluation):
    """The pooled predictions of the finished folds: DataFrame with PREDICTION_COLUMNS and data_sub, one row
    a clip, in the order of the folds; empty for an evaluation that the run lacks."""
    rows = []
    for fold in run.finished.values():
        if evaluation in fold.predictions:
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


def meter(table, classes):
    """The Meter of a table with y_true and y_pred."""
    return Meter(classes, table["y_true"].to_numpy(int), table["y_pred"].to_numpy(int))


def result_log(runs):
    """SPEC section 8's result_log.csv: DataFrame with LOG_COLUMNS; each run's subjects, then its totals.

    A subject's UF1 and UAR are over the classes that occur, those of the totals over all classes.
    """
    rows = []
    for run in runs:
        for evaluation in EVALUATIONS:
            table = predictions(run, evaluation)
            start = (run.name, run.dataset, evaluation)
            for data_sub, own in table.groupby("data_sub", sort=False):
                one = meter(own, run.classes)
                rows.append((*start, data_sub, len(own), one.accuracy, one.subject_uf1, one.subject_uar))
            for name, own in parts(run, table):
                pooled = meter(own, run.classes)
                if len(own):
                    rows.append((*start, name, len(own), pooled.accuracy, pooled.uf1, pooled.uar))
    return pd.DataFrame(rows, columns=LOG_COLUMNS).round(6)


def prediction_log(runs):
    """SPEC section 8's predictions.csv: DataFrame with PREDICTION_COLUMNS."""
    tables = [predictions(run, evaluation) for run in runs for evaluation in EVALUATIONS]
    return pd.concat(tables, ignore_index=True)[PREDICTION_COLUMNS]


def class_log(runs):
    """class_log.csv: DataFrame with CLASS_COLUMNS, one row a run, evaluation and class; `clips` are those of
    the class, `predicted` those that were taken for it, both among the finished folds."""
    rows = []
    for run in runs:
        for evaluation in EVALUATIONS:
            table = predictions(run, evaluation)
            if table.empty:
                continue
            pooled = meter(table, run.classes)
            counts = pooled.confusion()
            values = zip(run.facts["class_names"], counts.sum(1).tolist(), counts.sum(0).tolist(),
                         pooled.precision, *pooled.value(), strict=True)
            rows += [(run.name, run.dataset, evaluation, *row) for row in values]
    return pd.DataFrame(rows, columns=CLASS_COLUMNS).round(6)


def stem(run):
    """The run's name without its seed."""
    return re.sub(r"[-_]?seed\d+$", "", run.name)
