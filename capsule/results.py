"""Reads and checks what the runs left under `result/`; makes result_log, class_log and predictions of it.

A fold's file counts only if it is whole and made with its experiment's configuration; any other is named in a
note, and the fold is missing. Only JSON is opened, and no name in it can lead out of the folder.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from capsule.data.databases import DATABASES
from capsule.metrics import Meter, uf1_of_rounds
from common.errors import InputError, reason
from common.files import read_json
from common.names import plain_name

EVALUATIONS = ("strict", "paper")     # see README; strict comes first, as it is the one to quote
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
    predictions: dict             # evaluation -> (E, n) int64, of every epoch
    loss: np.ndarray              # (E,) mean training loss of each epoch
    lengths: np.ndarray           # (n, C) scores: capsule lengths or probabilities; strict, last epoch
    environment: dict             # versions, device, threads: `capsule.experiment.environment`


@dataclass(frozen=True)
class Run:
    """One experiment folder, read."""

    name: str
    folder: Path
    facts: dict                   # its experiment.json
    clips: pd.DataFrame           # data, subject, clip, data_sub, label: the whole clip list
    folds: tuple                  # every data_sub, in order
    finished: dict                # data_sub -> Fold, in the order of `folds`
    failed: dict                  # data_sub -> reason
    notes: tuple                  # lines on the files: what was left out, what differs between folds
    clip_list: str                # equal for runs on the same clips with the same labels
    family: str                   # equal for runs that differ in their seed alone
    remarks: tuple                # what the run itself remarked on clips and weights: (line, how many)

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
        """The dataset's name, with SYNTHETIC after it where the data are and the name does not say so."""
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
        raise InputError("; ".join(broken.values()) or f"{root}: no experiment there; run a training script "
                         "first, such as `python train_me_loso.py --dataset synthetic --quick`")
    return runs, broken


def select(runs, broken, names):
    """The runs called `names`, in that order; all when `names` is empty.

    Raises: InputError when one does not exist, or is in `broken` (see `read_runs`).
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
        raise InputError(f"{path}: not an experiment file ({reason(error)}); remove it and run its script "
                         "again") from error
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
    """Sorted names of what differs between the environments (versions, device, threads) of these folds."""
    made = [fold.environment for fold in folds]
    return [one_line(key) for key in sorted(set().union(*made))
            if len({one_line(one.get(key)) for one in made}) > 1]


def _files(folder):
    """dict of stem → path of a folder's JSON files, sorted; a killed writer's leftovers begin with a dot."""
    return {path.stem: path for path in sorted(folder.glob("[!.]*.json"))}


def check_facts(facts, path):
    """Check an experiment.json value. Returns: dict of Run's clips, clip_list, family and remarks.

    Raises: InputError or one of OTHER_SHAPE when something is missing, malformed or contradictory.
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
    lost = found == "none" and asked != "none"         # of a weights file the notes say what was found
    return (*told, *([(one_line(f"weights: {asked} asked for, {found} found"), 0)] if lost else []))


def _failure(path):
    """The reason and seed in a failed fold's file, as one line. Raises: InputError when it is not JSON."""
    value = read_json(path)
    return f"{one_line(value.get('reason'))} (fold seed {one_line(value.get('fold_seed'))})"


def read_fold(path, data_sub, facts, clips):
    """The fold file `path` as a Fold, checked against the experiment that `facts` and `clips` describe.

    facts: dict with experiment, config (as JSON gives it) and classes. clips: DataFrame with data, subject,
    clip, data_sub, label.
    Raises: InputError, naming the file, when it is not a complete fold of exactly this experiment.
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
        loss = _array(value["loss"], (max(epochs, 1),), "loss")
        lengths = _array(value["lengths"], (n, classes), "lengths")
        _need((lengths[np.arange(n), rounds["strict"][-1]] == lengths.max(1)).all(),
              "its last strict predictions are not the largest of its lengths")
        return Fold(data_sub, keys, y_true, rounds, loss, lengths, dict(value["environment"]))
    except OTHER_SHAPE as error:
        raise InputError(f"{path}: not a fold of {facts['experiment']} ({reason(error)}); remove it or "
                         "run the experiment again") from error


def _need(holds, complaint):
    if not holds:
        raise ValueError(complaint)


def _array(values, shape, what, classes=0):
    """`values` as an array of `shape`: int64 labels below `classes`, or if that is 0 finite float64 numbers.

    what: the values' name in the error. Raises: one of OTHER_SHAPE.
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


def epoch_used(fold, evaluation, classes):
    """1-based epoch whose predictions count: strict, the last one; paper, the one with the best test UF1.

    Best: the highest mean F1 over all classes, the later epoch when equal (SPEC section 7). The choice leaks
    the test fold.
    """
    rounds = fold.predictions[evaluation]
    if evaluation == "strict":
        return len(rounds)
    uf1 = uf1_of_rounds(fold.y_true, rounds, classes).round(12)
    return int(np.flatnonzero(uf1 == uf1.max())[-1]) + 1


def predictions(run, evaluation):
    """The finished folds' predictions: DataFrame with PREDICTION_COLUMNS and data_sub, one row per clip,
    in the order of the folds; without rows for an evaluation that the run lacks."""
    rows = []
    for fold in run.finished.values():
        if evaluation in fold.predictions:
            epoch = epoch_used(fold, evaluation, run.classes)
            predicted = fold.predictions[evaluation][epoch - 1].tolist()
            rows += [(run.name, evaluation, *clip, true, label, epoch, fold.data_sub) for clip, true, label
                     in zip(fold.clips, fold.y_true.tolist(), predicted, strict=True)]
    return pd.DataFrame(rows, columns=[*PREDICTION_COLUMNS, "data_sub"])


def parts(run, table):
    """What SPEC section 8 scores as totals: list of (name, rows of `table`), first ("ALL", all), then each
    database of a composite that has rows."""
    databases = DATABASES["composite"] if run.facts["dataset"] == "composite" else ()
    own = [(name, table[table["data"] == name]) for name in databases]
    return [("ALL", table), *((name, rows) for name, rows in own if len(rows))]


def meter(table, classes):
    """A `Meter` filled from the columns y_true and y_pred of `table`."""
    return Meter(classes, table["y_true"].to_numpy(int), table["y_pred"].to_numpy(int))


def _evaluated(runs):
    """Yield (run, evaluation, its `predictions`) where there are any."""
    for run in runs:
        for evaluation in EVALUATIONS:
            table = predictions(run, evaluation)
            if len(table):
                yield run, evaluation, table


def result_log(runs):
    """SPEC section 8's result_log.csv: DataFrame with LOG_COLUMNS; each run's subjects, then its totals.

    A subject's UF1 and UAR are means over the classes that occur in its fold, those of totals over all.
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
    """class_log.csv: DataFrame with CLASS_COLUMNS, a row per run, evaluation and class; `clips` counts those
    of the class, `predicted` those predicted as it, both in the finished folds."""
    rows = []
    for run, evaluation, table in _evaluated(runs):
        pooled = meter(table, run.classes)
        counts = pooled.confusion()
        values = zip(run.facts["class_names"], counts.sum(1).tolist(), counts.sum(0).tolist(),
                     pooled.precision, *pooled.value(), strict=True)
        rows += [(run.name, run.dataset, evaluation, *row) for row in values]
    return pd.DataFrame(rows, columns=CLASS_COLUMNS).round(6)


def stem(run):
    """The run's name without the seed at its end (seed9; seed9+seed10 where runs are fused)."""
    return re.sub(r"[-_]?seed\d+(\+seed\d+)*$", "", run.name)
