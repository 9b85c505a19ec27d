"""What the runs left under `result/`, read once and checked once, and the tables that are written from it.

A file is used when it is JSON of this very experiment; anything else is named in a note and counts as
missing. Only JSON is opened, and no name in it leads out of the folder.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from capsule.data.databases import DATABASES
from capsule.metrics import Meter, uf1_of_rounds
from common.errors import InputError
from common.files import read_json
from common.names import plain_name

EVALUATIONS = ("strict", "paper")     # strict first: it is the default wherever one number is shown
LOG_COLUMNS = ["experiment", "dataset", "evaluation", "subject", "clips", "accuracy", "uf1", "uar"]
PREDICTION_COLUMNS = ["experiment", "evaluation", "data", "subject", "clip", "y_true", "y_pred", "epoch"]
CLASS_COLUMNS = ["experiment", "dataset", "evaluation", "class", "clips", "predicted", "precision", "recall",
                 "f1"]
KEY = ["data", "subject", "clip"]
MAX_CLASSES = 20    # the tables' time and memory grow with their cube
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
    lengths: np.ndarray           # (n, C) capsule lengths or class probabilities; strict, last epoch
    environment: dict             # what its numbers may depend on besides the configuration


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
        """`labels_of` this run."""
        return labels_of(self.facts)


def labels_of(facts):
    """Words that must stand beside each number and figure of an experiment.json's run: SYNTHETIC, quick."""
    return ("SYNTHETIC",) * bool(facts["synthetic"]) + ("quick",) * bool(facts["quick"])


def read_runs(root):
    """Every experiment under `root`, by name: (list of Run, dict of folder name → why it could not be read).

    Raises: InputError when there is no experiment, or none that can be read.
    """
    root = Path(root)
    if (root / "experiment.json").is_file():
        raise InputError(f"{root}: this is one experiment; give the folder above it as --result-root")
    runs, broken = [], {}
    for name in sorted(path.parent.name for path in root.glob("[!.]*/experiment.json")):
        try:
            runs.append(read_run(root, name))
        except InputError as error:
            broken[name] = f"{error} (experiment left out)"
    for folder in sorted(path.parent for path in root.glob("[!.]*/folds") if any(path.glob("*.json"))):
        if not (folder / "experiment.json").is_file():
            broken[folder.name] = (f"{folder}: has folds and no experiment.json (experiment left out); run "
                                   "its script again, which writes it")
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
            raise InputError(broken.get(name, f"{name}: no such experiment; there are {', '.join(there)}"))
    return [there[name] for name in dict.fromkeys(names or there)]


def read_run(root, name):
    """The experiment `<root>/<name>/` as a Run. Folds that cannot be used become notes and count as missing.

    Raises: InputError, naming the file, when experiment.json is missing, broken or contradicts itself.
    """
    folder = Path(root) / plain_name(name, root)
    path = folder / "experiment.json"
    facts = read_json(path)
    try:
        checked = check_facts(facts, path)
    except OTHER_SHAPE as error:
        raise InputError(f"{path}: not an experiment file ({_reason(error)}); remove the folder or run the "
                         "experiment again") from error
    folds, failures = _files(folder / "folds"), _files(folder / "failed")
    finished, failed, notes = {}, {}, []
    for data_sub in facts["folds"]:
        try:
            if data_sub in folds:
                finished[data_sub] = read_fold(folds[data_sub], data_sub, facts, checked["clips"])
            elif data_sub in failures:
                failed[data_sub] = _failure(failures[data_sub])
        except InputError as error:
            notes.append(f"{error} (fold left out, counted as missing)")
    notes += [f"{one_line(path)}: not a fold of this experiment (left out)"
              for data_sub, path in folds.items() if data_sub not in facts["folds"]]
    if differing := differences(finished.values()):
        notes.append(f"{name}: its folds were made with differing {', '.join(differing)} (said in them)")
    return Run(name, folder, facts, folds=tuple(facts["folds"]), finished=finished, failed=failed,
               notes=tuple(notes), **checked)


def differences(folds):
    """What of their environments (versions, device, threads) is not the same in all folds: names, sorted."""
    made = [fold.environment for fold in folds]
    return [one_line(key) for key in sorted(set().union(*made))
            if len({one_line(one.get(key)) for one in made}) > 1]


def _files(folder):
    """The JSON files of a folder by their stem, in order; leftovers of killed writers begin with a dot."""
    return {path.stem: path for path in sorted(folder.glob("[!.]*.json"))}


def check_facts(facts, path):
    """Check an experiment.json value. Returns: dict of Run's clips, clip_list, family and remarks.

    Raises: InputError or one of OTHER_SHAPE when it is no such value.
    """
    _need(all(type(facts[name]) is list for name in ("class_names", "folds")), "has no lists of names")
    clips = pd.DataFrame(facts["clips"])[[*KEY, "data_sub", "label"]]
    names = (facts["experiment"], facts["script"], facts["dataset"], *facts["class_names"], *facts["folds"],
             *clips[[*KEY, "data_sub"]].to_numpy().ravel())
    for name in dict.fromkeys(names):
        plain_name(name, path)
    classes = facts["classes"]
    _need(type(classes) is int and classes == len(facts["class_names"]) > 1, "classes and class_names differ")
    _need(classes <= MAX_CLASSES, f"more than {MAX_CLASSES} classes")
    _array(clips["label"].to_list(), (len(clips),), "label", classes)
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
    lost = found == "none" and asked != "none"         # a file's are counted in the notes
    return (*told, *([(one_line(f"weights: {asked} asked for, {found} found"), 0)] if lost else []))


def _failure(path):
    """The reason that a failed fold's file gives, as one line. Raises: InputError when it is not JSON."""
    value = read_json(path)
    return f"{one_line(value.get('reason'))} (fold seed {one_line(value.get('fold_seed'))})"


def read_fold(path, data_sub, facts, clips):
    """The fold file `path` as a Fold of the experiment that `facts` and its clip table describe.

    facts: needs experiment, config (as JSON gives it) and classes. clips: DataFrame with data, subject, clip,
    data_sub, label.
    Raises: InputError, naming the file, for anything that is not a whole fold of this very experiment.
    """
    value = read_json(path)
    labels = clips[clips["data_sub"] == data_sub].set_index(KEY)["label"]
    try:
        _need(value["config"] == facts["config"], "made with another configuration than experiment.json's")
        _need(value["data_sub"] == data_sub, "of another subject")
        keys = tuple(tuple(clip[part] for part in KEY) for clip in value["clips"])
        _need(sorted(keys) == sorted(labels.index), "its clips are not this subject's")
        n, epochs, classes = len(keys), len(value["loss"]), facts["classes"]
        y_true = _array(value["y_true"], (n,), "y_true", classes)
        _need(y_true.tolist() == [labels[key] for key in keys], "its labels are not the experiment's")
        rounds = {name: _array(value[name], (epochs, n), name, classes) for name in EVALUATIONS}
        return Fold(data_sub, keys, y_true, rounds, _array(value["loss"], (max(epochs, 1),), "loss"),
                    _array(value["lengths"], (n, classes), "lengths"), dict(value["environment"]))
    except OTHER_SHAPE as error:
        raise InputError(f"{path}: not a fold of {facts['experiment']} ({_reason(error)}); remove it or run "
                         "the experiment again") from error


def _need(holds, what):
    if not holds:
        raise ValueError(what)


def _array(values, shape, what, classes=0):
    """`values` of `shape`: int64 labels from 0 to classes − 1, or without `classes` finite float64 numbers.

    Raises: one of OTHER_SHAPE.
    """
    found, size = np.array(values), " × ".join(map(str, shape))
    if not classes:
        _need(found.shape == shape and found.dtype.kind in "if" and np.isfinite(found).all(),
              f"{what} is not {size} finite numbers")
        return found.astype(float)
    _need(found.shape == shape and found.dtype == np.int64 and ((found >= 0) & (found < classes)).all(),
          f"{what} is not {size} labels from 0 to {classes - 1}")
    return found


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
            predicted = fold.predictions[evaluation][epoch - 1].tolist()
            rows += [(run.name, evaluation, *clip, true, label, epoch, fold.data_sub) for clip, true, label
                     in zip(fold.clips, fold.y_true.tolist(), predicted, strict=True)]
    return pd.DataFrame(rows, columns=[*PREDICTION_COLUMNS, "data_sub"])


def parts(run, table):
    """The totals of SPEC section 8: list of (name, rows of `table`); "ALL", then each database of a composite
    that has a row."""
    databases = DATABASES["composite"] if run.facts["dataset"] == "composite" else ()
    own = [(name, table[table["data"] == name]) for name in databases]
    return [("ALL", table), *((name, rows) for name, rows in own if len(rows))]


def meter(table, classes):
    """The Meter of a table with y_true and y_pred."""
    return Meter(classes, table["y_true"].to_numpy(int), table["y_pred"].to_numpy(int))


def _evaluated(runs):
    """(run, evaluation, predictions) of each evaluation that has any."""
    for run in runs:
        for evaluation in EVALUATIONS:
            table = predictions(run, evaluation)
            if len(table):
                yield run, evaluation, table


def result_log(runs):
    """SPEC section 8's result_log.csv: DataFrame with LOG_COLUMNS; each run's subjects, then its totals.

    A subject's UF1 and UAR are over the classes that occur, those of the totals over all classes.
    """
    rows = []
    for run, evaluation, table in _evaluated(runs):
        start = (run.name, run.dataset, evaluation)
        for data_sub, own in table.groupby("data_sub", sort=False):
            one = meter(own, run.classes)
            rows.append((*start, data_sub, len(own), one.accuracy, one.subject_uf1, one.subject_uar))
        for name, own in parts(run, table):
            pooled = meter(own, run.classes)
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
    for run, evaluation, table in _evaluated(runs):
        pooled = meter(table, run.classes)
        counts = pooled.confusion()
        values = zip(run.facts["class_names"], counts.sum(1).tolist(), counts.sum(0).tolist(),
                     pooled.precision, *pooled.value(), strict=True)
        rows += [(run.name, run.dataset, evaluation, *row) for row in values]
    return pd.DataFrame(rows, columns=CLASS_COLUMNS).round(6)


def stem(run):
    """The run's name without its seed, or seeds where runs are fused."""
    return re.sub(r"[-_]?seed\d+(\+seed\d+)*$", "", run.name)
