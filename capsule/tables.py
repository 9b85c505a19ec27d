"""The printed tables: every run beside its clip list's baselines and, where comparable, published numbers."""

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binom

from capsule.data.remarks import listed
from capsule.metrics import bootstrap_uf1
from capsule.results import differences, meter, one_line, parts, predictions, stem

SHOWN = {"strict": "strict (last epoch)", "paper": "best test epoch*"}    # evaluation → its name in a row
BOTH = {"casme": "CASME II\nUF1 / UAR", "smic": "SMIC\nUF1 / UAR", "samm": "SAMM\nUF1 / UAR"}
COLUMNS = ["result", "seed", "folds", "evaluation", "UF1", "UAR", "accuracy", *BOTH.values(), "notes"]
NOTHING = "-"
WIDEST_NAME = 90       # characters of a run's name in a printed line; those of fused runs are longer
MEGC_CLIPS = 435       # in the challenge's composite
FEWEST_SUBJECTS = 3    # for a bootstrap interval over subjects
LEAK = "*: chosen for each subject on its own test clips, which leaks the test fold"
LEGEND = ("strict: pictures as they are, the last epoch; quote this one.",
          f"{LEAK}; only beside numbers that were published that way.",
          "[low, high]: 95 % bootstrap interval over subjects (of fewer than some 20 it is too narrow: "
          "result/README.md). ±: standard deviation over seeds.",
          "notes: how many clips, folds and files the remarks on a run name; they stand below.")

PUBLISHED = Path(__file__).with_name("published.csv")    # SPEC section 9, on the MEGC 2019 composite
PUBLISHED_NOTES = (
    "published: UF1/UAR as published, on lists of 435 to 442 clips, with the epoch choice seen in its code.",
    "CapsuleNet: recomputed from its public log of 435 clips.",
    'STSTNet: from its own log; the paper\'s .7605 "UAR" is its macro-precision.',
    "HTNet: its released predictions give .8313/.8175; users who rerun it report UF1 .655.",
    'meb\'s reruns (tvaranka/meb, notebook "Early stopping"): the last epoch is the leak-free number.',
    "On a test set that nobody had seen (4DMR challenge 2025) UF1 was .536.",
)


@dataclass(frozen=True)
class Table:
    """A DataFrame of text cells with a title above and notes below. A line break in a column's name is kept
    in a terminal and becomes a space elsewhere."""

    title: str
    cells: pd.DataFrame
    notes: tuple = ()


def report(runs, problems=()):
    """List of Table: for each clip list one of the runs' scores and one of their classes.

    runs: at least one Run. problems: lines about unreadable folders, which become the last table's notes.
    """
    tables = []
    for members in _grouped(runs, "clip_list"):
        families = [sorted(one, key=lambda run: run.facts["seed"]) for one in _grouped(members, "family")]
        tables += [_score_table(families), _class_table([run for family in families for run in family])]
    return [*tables[:-1], replace(tables[-1], notes=(*tables[-1].notes, *problems))]


def _grouped(runs, name):
    """The runs in lists of equal attribute `name`, by first appearance."""
    groups = {}
    for run in runs:
        groups.setdefault(getattr(run, name), []).append(run)
    return groups.values()


def render(tables, form="text"):
    """The tables as one text; `form` is "text", "markdown" or "latex" (needs the booktabs package)."""
    texts = []
    for table in tables:
        cells = table.cells.rename(columns=lambda name: name if form == "text" else name.replace("\n", " "))
        if form == "text":
            cells = cells.assign(result=[textwrap.fill(name, WIDEST_NAME) for name in cells["result"]])
            body = cells.to_markdown(index=False, tablefmt="simple", disable_numparse=True)
            lines = [table.title, *body.split("\n"), *table.notes]
        elif form == "markdown":
            body = cells.to_markdown(index=False, disable_numparse=True)
            lines = [f"**{table.title}**", "", body, "", *(f"- {note}" for note in table.notes)]
        else:
            body = cells.to_latex(index=False, escape=True).rstrip()
            lines = [f"% {table.title}", body, *(f"% {note}" for note in table.notes)]
        texts.append("\n".join(line.rstrip() for line in lines).rstrip() + "\n")
    return "\n".join(texts)


def cut(name, most=24):
    """`name`, shortened to `most` characters."""
    return name if len(name) <= most else name[:most - 3] + "..."


def class_names(run):
    """The names of the run's classes, each short enough for a column or an axis."""
    return [cut(name) for name in run.facts["class_names"]]


def _score_table(families):
    """The Table of the runs on one clip list; below them guessing and, for MEGC 2019, published numbers."""
    runs, rows = [], []
    for family in families:
        runs += family
        rows += _mean_rows(family) + [row for run in family for row in _rows(run)]
    cells = pd.DataFrame(rows + _baseline_rows(runs[0]), columns=COLUMNS)
    notes = [*LEGEND, *_remarks(runs), *(note for family in families for note in _mixed(family)),
             *(note for run in runs for note in _notes(run))]
    if any(_is_megc(run) for run in runs):
        cells = pd.concat([cells, pd.read_csv(PUBLISHED, dtype=str).rename(columns=BOTH)])
        notes += PUBLISHED_NOTES
    elif runs[0].facts["dataset"] == "composite" and not runs[0].facts["synthetic"]:
        notes.append("no published row is about this clip list; train with --protocol megc2019 on all "
                     f"{MEGC_CLIPS} to compare")
    without = [column for column in BOTH.values() if cells[column].isna().all()]
    return Table(_title(runs[0]), cells.drop(columns=without).fillna(NOTHING), tuple(notes))


def _title(run):
    """The title of a run's clip list: dataset, protocol, counts."""
    config, counts = run.facts["config"], run.clips["label"].value_counts()
    kind = ", ".join(cut(one_line(config[name]), 60) for name in ("protocol", "subset")
                     if config.get(name) and not run.facts["synthetic"])
    each = ", ".join(f"{counts.get(label, 0)} {name}" for label, name in enumerate(class_names(run)))
    mark = "SYNTHETIC (invented faces; says nothing about people): " if run.facts["synthetic"] else ""
    return (f"{mark}{run.dataset}{f' ({kind})' if kind else ''}: {len(run.clips)} clips, "
            f"{len(run.folds)} subjects; {each}")


def _scores(run, table):
    """dict of name of `parts` → (UF1, UAR, accuracy) over all classes; table: with y_true and y_pred."""
    pooled = {part: meter(own, run.classes) for part, own in parts(run, table)}
    return {part: (one.uf1, one.uar, one.accuracy) for part, one in pooled.items()}


def _cells(scores):
    """dict of column → text, from a dict of part → (UF1, UAR, accuracy)."""
    cells = dict(zip(("UF1", "UAR", "accuracy"), (f"{value:.4f}" for value in scores["ALL"]), strict=True))
    return cells | {BOTH[part]: f"{scores[part][0]:.4f} / {scores[part][1]:.4f}" for part in scores
                    if part != "ALL"}


def _rows(run):
    """One run's rows, one per evaluation, UF1 with its 95 % bootstrap interval over subjects."""
    done, count = len(run.finished), len(run.folds)
    start = {"result": _marked(run.name, run), "seed": str(run.facts["seed"]),
             "folds": f"{done}/{count}" + (f" ({count - done} missing)" if run.missing else ""),
             "notes": str(sum(n for _, n in run.remarks) + len(run.notes))}
    rows = []
    for evaluation, name in SHOWN.items():
        table = predictions(run, evaluation)
        if len(table):
            cells = _cells(_scores(run, table))
            if table["data_sub"].nunique() >= FEWEST_SUBJECTS:
                low, high = bootstrap_uf1(table["y_true"], table["y_pred"], table["data_sub"], run.classes)
                cells["UF1"] += f" [{low:.3f}, {high:.3f}]"
            rows.append({**start, "evaluation": name, **cells})
    return rows or [start]


def _seeds(family):
    """The complete runs of a family, one per seed."""
    return list({run.facts["seed"]: run for run in family if not run.missing}.values())


def _mixed(family):
    """A note, in a list, if the runs whose mean is shown differ in versions, device or threads; else []."""
    runs = _seeds(family)
    found = differences([fold for run in runs for fold in run.finished.values()]) if len(runs) > 1 else []
    return [f"{stem(runs[0])}: its seeds were made with differing {', '.join(found)} (said in their folds)"
            ] if found else []


def _mean_rows(family):
    """Rows of mean ± standard deviation (n - 1) over two or more seeds' complete runs, one per evaluation."""
    runs = _seeds(family)
    if len(runs) < 2:
        return []
    name, rows = _marked(f"{stem(runs[0])}: mean of {len(runs)} seeds", runs[0]), []
    for evaluation, shown in SHOWN.items():
        scores = [_scores(run, predictions(run, evaluation)) for run in runs]
        cells = _cells({part: np.mean([one[part] for one in scores], axis=0) for part in scores[0]})
        spread = np.std([one["ALL"] for one in scores], axis=0, ddof=1)
        for column, value in zip(("UF1", "UAR"), spread[:2], strict=True):
            cells[column] += f" ± {value:.4f}"
        rows.append({"result": name, "seed": "+".join(str(run.facts["seed"]) for run in runs),
                     "evaluation": shown, **cells})
    return rows


def _baseline_rows(run):
    """What guessing gives on the whole clip list: the most frequent class, each class equally often, and each
    as often as it occurs: a UF1 of nearly 1 / classes, about the highest that a guess can expect."""
    table, n = run.clips.rename(columns={"label": "y_true"}), run.classes
    counts = np.bincount(table["y_true"], minlength=n)
    guesses = {"random guess (expected)": np.full(n, 1 / n),
               "random guess, in the classes' shares (expected)": counts / counts.sum()}
    found = {f"majority class ({class_names(run)[counts.argmax()]})":
             _scores(run, table.assign(y_pred=int(counts.argmax())))}
    for name, chances in guesses.items():
        found[name] = {part: _guessed(own["y_true"].to_numpy(int), chances)
                       for part, own in parts(run, table)}
    return [{"result": _marked(name, run, words=("SYNTHETIC",)), **_cells(scores)}
            for name, scores in found.items()]


def _guessed(y_true, chances):
    """Expected (UF1, UAR, accuracy) of guessing class c with probability chances[c]."""
    counts = np.bincount(y_true, minlength=len(chances))
    return random_uf1(y_true, chances), (chances * (counts > 0)).mean(), counts @ chances / len(y_true)


def random_uf1(y_true, chances):
    """Expected UF1 of guessing class c with probability chances[c], exactly.

    A class's hits and false alarms are independent binomials, so E[F1] = E[2 hits / (n + hits + alarms)].
    A class absent from `y_true` scores 0.
    """
    total, values = len(y_true), []
    for label, chance in enumerate(chances):
        n = int((y_true == label).sum())
        hits = np.arange(n + 1)[:, None]                 # (n + 1, 1)
        alarms = np.arange(total - n + 1)[None, :]       # (1, total - n + 1)
        weight = binom.pmf(hits, n, chance) * binom.pmf(alarms, total - n, chance)
        values.append(float((weight * 2 * hits / np.maximum(n + hits + alarms, 1)).sum()))
    return float(np.mean(values))


def _class_table(runs):
    """The Table of each class's strict scores, one row per run."""
    counts = runs[0].clips["label"].value_counts()
    columns = ["result", *(f"{name}\n{counts.get(label, 0)} clips"
                           for label, name in enumerate(class_names(runs[0])))]
    rows = []
    for run in (run for run in runs if run.finished):
        pooled = meter(predictions(run, "strict"), run.classes)
        each = zip(pooled.precision, *pooled.value(), pooled.confusion().sum(0), strict=True)
        name = _marked(run.name, run) + f" ({len(run.finished)}/{len(run.folds)} folds)" * bool(run.missing)
        rows.append((name, *(f"{p:.3f} / {r:.3f} / {f:.3f} ({n})" for p, r, f, n in each)))
    return Table("strict, class by class: precision / recall / F1 (clips predicted as it)",
                 pd.DataFrame(rows, columns=columns))


def _marked(name, run, words=("SYNTHETIC", "quick")):
    """`name` followed by those of the run's labels (SYNTHETIC, quick) that are among `words`."""
    marks = [word for word in run.labels if word in words]
    return f"{name} [{', '.join(marks)}]" if marks else name


def _is_megc(run):
    """Whether the published rows of SPEC section 9 are about the clip list of `run`."""
    config = run.facts["config"]
    return (run.facts["dataset"] == "composite" and not run.facts["synthetic"] and run.classes == 3
            and config.get("protocol") == "megc2019" and len(run.clips) == MEGC_CLIPS)


def _remarks(runs):
    """The remarks that the runs made on clips and weights, each line once with the runs that made it."""
    told = {}
    for run in runs:
        for remark in run.remarks:
            told.setdefault(remark, {})[stem(run)] = None    # seeds of one name say it together
    return [f"{what}{f': {count}' if count else ''} ({listed(list(names))})"
            for (what, count), names in told.items()]


def _notes(run):
    """Lines that a person should read about one run."""
    notes = [f"{run.name}: fold {name} failed: {reason}" for name, reason in run.failed.items()]
    if run.missing:
        notes.append(f"{run.name}: incomplete, {len(run.missing)} of {len(run.folds)} folds missing: "
                     f"{listed(run.missing)}")
    return [*notes, *run.notes]
