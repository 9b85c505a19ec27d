"""The printed table: every run beside its clip list's baselines and, where comparable, published numbers."""

import re
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from capsule.evaluations import bootstrap_uf1
from capsule.results import EVALUATIONS, clip_list_key, parts, predictions, scores, sibling_key

LEAK = "best test epoch: leaks the test fold"
PLAIN_NAMES = {"strict": "strict (last epoch)", "paper": LEAK}
PART_NAMES = {"ALL": "Full", "casme": "CASME II", "smic": "SMIC", "samm": "SAMM"}
METRICS = ("UF1", "UAR", "accuracy")
GROUPS = (("", ("result", "seed", "folds", "clips of")), *((PLAIN_NAMES[e], METRICS) for e in EVALUATIONS))
NOTHING = "–"
NAMES_IN_A_NOTE = 8
FEWEST_SUBJECTS = 3    # for a bootstrap interval over subjects
SPREAD = "[low, high]: 95 % bootstrap interval over subjects; ±: standard deviation over seeds."

PUBLISHED_GROUPS = (("", ("published", "Full", "SMIC", "CASME II", "SAMM", "epoch choice seen in its code")),)
PUBLISHED = (    # SPEC section 9: UF1 / UAR on the MEGC 2019 composite
    ("LBP-TOP", ".5882/.5785", ".2000/.5280", ".7026/.7429", ".3954/.4102", NOTHING),
    ("Bi-WOOF", ".6296/.6227", ".5727/.5829", ".7805/.8026", ".5211/.5139", NOTHING),
    ("CapsuleNet (its log)", ".6520/.6506", ".5820/.5877", ".7068/.7018", ".6209/.5990", "best test epoch"),
    ("Dual-Inception", ".7322/.7278", ".6645/.6726", ".8621/.8560", ".5868/.5663", NOTHING),
    ("STSTNet (its log)", ".7353/.7186", ".6801/.6703", ".8382/.8190", ".6588/.6415", "last epoch"),
    ("EMR", ".7885/.7824", ".7461/.7530", ".8293/.8209", ".7754/.7152", NOTHING),
    ("RCN", ".7432/.7190", ".6326/.6441", ".8512/.8123", ".7601/.6715", NOTHING),
    ("FeatRef", ".7838/.7832", ".7011/.7083", ".8915/.8873", ".7372/.7155", NOTHING),
    ("HTNet (paper)", ".8603/.8475", ".8049/.7905", ".9532/.9516", ".8131/.8124", "best test epoch"),
)
PUBLISHED_NOTES = (
    "UF1/UAR as published, on lists of 435 to 442 clips.",
    "CapsuleNet: recomputed from its public log of 435 clips.",
    "STSTNet: from its own log; the paper's .7605 \"UAR\" is its macro-precision.",
    "HTNet: its released predictions give .8313/.8175.",
)


@dataclass(frozen=True)
class Table:
    """Text cells under grouped columns: `groups` is a tuple of (group name, column names)."""

    title: str
    groups: tuple
    rows: tuple
    notes: tuple = ()


def report(runs, problems=()):
    """The list of Table for `runs`: one for each clip list, the published numbers, then what to know.

    `problems`: lines about folders that could not be read; they become notes of the last table.
    """
    tables, lists = [], {}
    for run in runs:
        lists.setdefault(clip_list_key(run), []).append(run)
    for members in lists.values():
        tables.append(_list_table(members))
        if any(_is_megc(run) for run in members):
            rows = tuple((f"published: {row[0]}", *row[1:]) for row in PUBLISHED)
            tables.append(Table("MEGC 2019 composite, published", PUBLISHED_GROUPS, rows, PUBLISHED_NOTES))
    last = tables[-1]
    tables[-1] = Table(last.title, last.groups, last.rows, (*last.notes, *problems))
    return tables


def _list_table(members):
    """The Table of the runs on one clip list."""
    families, rows = {}, []
    for run in members:
        families.setdefault(sibling_key(run), []).append(run)
    for family in families.values():
        rows += _family_rows(sorted(family, key=lambda run: (run.facts["seed"], run.name)))
    return Table(_title(members[0]), GROUPS, tuple(rows + _baseline_rows(members[0])),
                 (SPREAD, *(note for run in members for note in _notes(run))))


def _title(run):
    """What the clip list is: dataset, protocol, counts."""
    config, counts = run.facts["config"], run.clips["label"].value_counts()
    kind = ", ".join(str(config[name]) for name in ("protocol", "subset")
                     if config.get(name) and not run.facts["synthetic"])
    each = ", ".join(f"{counts.get(label, 0)} {name}" for label, name in enumerate(run.facts["class_names"]))
    mark = "SYNTHETIC (invented faces; says nothing about people): " if run.facts["synthetic"] else ""
    return (f"{mark}{run.dataset}{f' ({kind})' if kind else ''}: {len(run.clips)} clips, "
            f"{len(run.folds)} subjects; {each}")


def _family_rows(family):
    """Rows of runs that differ in their seeds alone: their mean first, where two or more are complete."""
    seeds = {}
    for run in family:
        if not run.missing:
            seeds.setdefault(run.facts["seed"], run)
    rows = _mean_rows(list(seeds.values())) if len(seeds) > 1 else []
    for run in family:
        rows += _run_rows(run, interval=len(seeds) < 2)
    return rows


def _mean_rows(runs):
    """Mean ± standard deviation (n - 1) over complete runs of different seeds, a row for each part."""
    seeds = ", ".join(str(seed) for seed in sorted(run.facts["seed"] for run in runs))
    name = re.sub(r"[-_]?seed\d+$", "", runs[0].name)
    measured = [[_measure(run, evaluation) for evaluation in EVALUATIONS] for run in runs]
    rows = []
    for part in measured[0][0]:
        values = np.array([[list(found[part]) for found in pair] for pair in measured])    # (seeds, 2, 3)
        cells = [f"{mean:.4f} ± {deviation:.4f}" for mean, deviation
                 in zip(values.mean(0).ravel(), values.std(0, ddof=1).ravel(), strict=True)]
        # UF1 and UAR stand before accuracy in the table, so reorder each evaluation's (accuracy, UF1, UAR)
        cells = [cells[i] for i in (1, 2, 0, 4, 5, 3)]
        rows.append((_marked(f"{name}: mean of {len(runs)} seeds", runs[0]), seeds, "all", PART_NAMES[part],
                     *cells))
    return rows


def _measure(run, evaluation):
    """dict of part name → (accuracy, UF1, UAR) over the finished folds."""
    return {name: scores(own, run.classes)
            for name, own in parts(run, predictions(run, evaluation)) if len(own)}


def _run_rows(run, interval):
    """One run's rows, a part each; `interval`: with the bootstrap interval of UF1 over subjects."""
    done, count = len(run.finished), len(run.folds)
    folds = f"{done}/{count}" + (f" ({count - done} missing)" if run.missing else "")
    start = (_marked(run.name, run), str(run.facts["seed"]), folds)
    if not done:
        return [(*start, NOTHING, *[NOTHING] * 6)]
    tables = [dict(parts(run, predictions(run, evaluation))) for evaluation in EVALUATIONS]
    rows = []
    for part in tables[0]:
        cells = []
        for own in (table[part] for table in tables):
            accuracy, uf1, uar = scores(own, run.classes)
            spread = _interval(own, run.classes) if interval else ""
            cells += [f"{uf1:.4f}{spread}", f"{uar:.4f}", f"{accuracy:.4f}"]
        rows.append((*start, PART_NAMES[part], *cells))
    return rows


def _interval(table, classes):
    """95 % bootstrap interval over subjects of UF1 as text; "" for too few subjects to say anything."""
    if table["data_sub"].nunique() < FEWEST_SUBJECTS:
        return ""
    low, high = bootstrap_uf1(table["y_true"].to_numpy(), table["y_pred"].to_numpy(),
                              table["data_sub"].to_numpy(), classes=classes)
    return f" [{low:.3f}, {high:.3f}]"


def _baseline_rows(run):
    """What guessing gives on the whole clip list: the most frequent class, and each class equally often."""
    table = run.clips.rename(columns={"label": "y_true"})
    majority = int(table["y_true"].value_counts().sort_index().idxmax())
    rows = []
    for name, own in parts(run, table):
        accuracy, uf1, uar = scores(own.assign(y_pred=majority), run.classes)
        rows.append((f"majority class ({run.facts['class_names'][majority]})", name, uf1, uar, accuracy))
    for name, own in parts(run, table):
        uf1 = random_uf1(own["y_true"].to_numpy(), run.classes)
        recall = own["y_true"].nunique() / run.classes / run.classes
        rows.append(("random guess (expected)", name, uf1, recall, 1 / run.classes))
    return [(_marked(name, run, words=("SYNTHETIC",)), NOTHING, NOTHING, PART_NAMES[part],
             *(f"{value:.4f}" for value in values), *[NOTHING] * 3) for name, part, *values in rows]


def random_uf1(y_true, classes):
    """Expected UF1 of guessing each class with probability 1/classes, exactly.

    A class's hits and false alarms are independent binomials, so E[F1] = E[2 hits / (n + hits + alarms)].
    A class absent from `y_true` scores 0.
    """
    total, values = len(y_true), []
    for label in range(classes):
        n = int((y_true == label).sum())
        hits = np.arange(n + 1)[:, None]                 # (n + 1, 1)
        alarms = np.arange(total - n + 1)[None, :]       # (1, total - n + 1)
        weight = binom.pmf(hits, n, 1 / classes) * binom.pmf(alarms, total - n, 1 / classes)
        values.append(float((weight * 2 * hits / np.maximum(n + hits + alarms, 1)).sum()))
    return float(np.mean(values))


def _marked(name, run, words=("SYNTHETIC", "quick")):
    """`name` with the words that must stand beside it."""
    marks = [word for word in run.labels if word in words]
    return f"{name} [{', '.join(marks)}]" if marks else name


def _is_megc(run):
    """Whether the published rows of SPEC section 9 are about the clip list of `run`."""
    config = run.facts["config"]
    return (run.facts["dataset"] == "composite" and not run.facts["synthetic"] and run.classes == 3
            and config.get("protocol") == "megc2019" and config.get("subset", "all") == "all")


def _notes(run):
    """Lines that a person should read about one run."""
    notes = [f"{run.name}: fold {name} failed: {reason}" for name, reason in run.failed.items()]
    if run.missing:
        names = ", ".join(run.missing[:NAMES_IN_A_NOTE])
        more = len(run.missing) - NAMES_IN_A_NOTE
        notes.append(f"{run.name}: incomplete, {len(run.missing)} of {len(run.folds)} folds missing: {names}"
                     + (f" and {more} more" if more > 0 else ""))
    if run.facts["dataset"] == "composite" and not run.facts["synthetic"] and not _is_megc(run):
        notes.append(f"{run.name}: no published row is about this clip list; "
                     "train with --protocol megc2019 to compare")
    return [*notes, *run.notes]


def render(tables, form="text"):
    """The tables as one text; `form` is "text", "markdown" or "latex"."""
    return "\n".join({"text": _text, "markdown": _markdown, "latex": _latex}[form](table) for table in tables)


def _columns(table):
    """All column names, in order."""
    return [name for _, names in table.groups for name in names]


def _text(table):
    """Aligned columns for a terminal, the group names in a line above them."""
    cells = [_columns(table), *table.rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    above, first = "", 0
    for group, names in table.groups:
        width = sum(widths[first:first + len(names)]) + 2 * (len(names) - 1)
        widths[first + len(names) - 1] += max(0, len(group) - width)
        above += group.ljust(max(width, len(group))) + "  "
        first += len(names)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in cells]
    rule = "-" * max(len(line) for line in lines)
    lines = [table.title, *([above.rstrip()] if above.strip() else []), lines[0], rule, *lines[1:]]
    return "\n".join([*lines, *table.notes]) + "\n"


def _markdown(table):
    """A Markdown table; each column says its group."""
    names = [f"{name}, {group}" if group else name for group, names in table.groups for name in names]
    rows = [names, ["---"] * len(names), *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"**{table.title}**", "", *lines, *([""] if notes else []), *notes]) + "\n"


def _latex(table):
    """A LaTeX table (needs the booktabs package)."""
    spans, rules, first = [], [], 1
    for group, names in table.groups:
        spans.append(f"\\multicolumn{{{len(names)}}}{{l}}{{{_escape(group)}}}")
        rules += [f"\\cmidrule(lr){{{first}-{first + len(names) - 1}}}"] if group else []
        first += len(names)
    head = [" & ".join(spans) + " \\\\", " ".join(rules)] if rules else []
    rows = [" & ".join(_escape(cell) for cell in row) + " \\\\" for row in table.rows]
    names = " & ".join(_escape(name) for name in _columns(table)) + " \\\\"
    notes = [f"% {note}" for note in table.notes]
    return "\n".join(["\\begin{table}", "\\centering", f"\\caption{{{_escape(table.title)}}}",
                      f"\\begin{{tabular}}{{{'l' * (first - 1)}}}", "\\toprule", *head, names, "\\midrule",
                      *rows, "\\bottomrule", "\\end{tabular}", "\\end{table}", *notes]) + "\n"


def _escape(text):
    """`text` with LaTeX's special characters made plain."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
               "±": r"$\pm$", "–": "--", **{mark: "\\" + mark for mark in "&%$#_{}"}}
    return "".join(special.get(mark, mark) for mark in text)
