"""The clip table of an experiment, from the owners' sheets or a list, checked (SPEC section 1)."""

import os
import re
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from capsule.data.databases import (
    BLOCKS,
    DATABASES,
    FIVE,
    NOT_IN_MEGC2019,
    SADNESS_TO_SURPRISE,
    THREE,
    database_name,
)
from capsule.data.folders import ClipFolders, list_frames, subject_number
from capsule.data.remarks import line, listed, remark
from capsule.data.sheets import (
    FRAMES,
    checked,
    clip_pairs,
    read_columns,
    read_sheet,
    subject_names,
)
from common.cache import digest
from common.errors import InputError, printable
from synthetic import is_there

PROTOCOLS = ("dsnca", "megc2019")
SUBSETS = ("all", "glasses")
PATHS = [f"{name}_path" for name in FRAMES]
COLUMNS = ["data", "subject", "clip", "label", *FRAMES, *PATHS, "data_sub", "emotion"]
# (dataset, classes, protocol, subset) → published clips, subjects, clips per class (SPEC section 1).
EXPECTED = {
    ("casme", 3, "dsnca", "all"): (150, 24, (90, 32, 28)),
    ("casme", 5, "dsnca", "all"): (249, 26, (63, 32, 28, 27, 99)),
    ("casme", 3, "megc2019", "all"): (145, 24, (88, 32, 25)),
    ("composite", 3, "dsnca", "all"): (440, 68, (248, 109, 83)),
    ("composite", 3, "megc2019", "all"): (435, 68, (246, 109, 80)),
    ("composite", 3, "dsnca", "glasses"): (146, 28, (76, 37, 33)),
    **{("smic", 3, protocol, "all"): (157, 16, (66, 51, 40)) for protocol in PROTOCOLS},
    **{("samm", 3, protocol, "all"): (133, 28, (92, 26, 15)) for protocol in PROTOCOLS},
}


@dataclass(frozen=True)
class Clips:
    """The clips of one experiment, in the order of the sheets or the list.

    table: one row per clip, columns `COLUMNS`; frame paths are relative to `data_root`, "" if not on disk.
    notes: dict of JSON types: name (of the files written), protocol, subset, check (the counts against the
    published ones, in words), sheets (the files read), frames ({database: {folder: clips taken from it}}),
    missing (a line a database on apex frames not on disk, or ""), said (remarks, see capsule.data.remarks).
    """

    table: pd.DataFrame
    dataset: str
    class_names: tuple
    data_root: Path
    notes: dict = field(default_factory=dict)

    @property
    def n_classes(self):
        return len(self.class_names)

    @property
    def subjects(self):
        """The held-out units (`data_sub`), in table order."""
        return tuple(dict.fromkeys(self.table["data_sub"]))

    @property
    def labels(self):
        """int64 (number of clips,)."""
        return self.table["label"].to_numpy(np.int64)

    @property
    def keys(self):
        """list of "<data>/<subject>/<clip>"."""
        return _keys(self.table)

    @property
    def per_class(self):
        """Clips of each class, a tuple in class order."""
        return tuple(int(n) for n in np.bincount(self.labels, minlength=self.n_classes))

    @property
    def apex_on_disk(self):
        """bool (number of clips,): is the apex frame on disk?"""
        return (self.table["apex_frame_path"] != "").to_numpy(bool)

    @property
    def identity(self):
        """16 hex digits of the clips, labels and onset, apex and offset numbers, in order; and of their
        action units where the table has them."""
        numbers = self.table[["label", *FRAMES]].to_numpy(np.int64)
        units = [self.table["action_units"].to_list()] if "action_units" in self.table else []
        return digest(self.keys, numbers.tolist(), *units)


def load_clips(dataset, data_root="data", classes=3, protocol="dsnca", subset="all", skip_missing=False,
               frames=""):
    """The `Clips` of one experiment; prints their `summary`.

    dataset: a database or the composite, as people write it. data_root: folder of the databases. classes:
    3, or 5 for CASME II. protocol: dsnca, megc2019, or a CSV file of clips (there, or in `annotations/`) with
    the first seven of `COLUMNS`; frame numbers that it lacks are the sheets'. subset: all or glasses.
    skip_missing: drop clips without an apex frame, coded and on disk. frames: part of the name of the folder
    to take pictures from, where there are several; None: no frames are needed, so none are looked for.
    A sheet with as many rows as the owners' must give the published counts; of any other, and of a list, the
    differences are only printed. Frames may be missing. The synthetic database is made where it is not there.
    Raises: InputError for a wrong option, an unusable sheet or list, or counts that contradict the protocol.
    """
    dataset, root = database_name(dataset), Path(data_root)
    check_list(dataset, classes, protocol, subset)
    _check_root(dataset, root)
    read = _from_sheets if protocol in PROTOCOLS else _from_list
    table, said, sheets, official = read(dataset, root, classes, protocol)
    drop = skip_missing and frames is not None
    table = _of_subset(table, subset, sheets, need_apex=frames is not None and not drop)
    table, places, missing = with_paths(table, root, frames)
    notes = {"name": _name(dataset, classes, protocol, subset), "protocol": str(protocol), "subset": subset,
             "sheets": sheets, "frames": places, "missing": missing}
    clips = Clips(table, dataset, FIVE if classes == 5 else THREE, root, notes)
    notes["check"] = _compared(clips, EXPECTED.get((dataset, classes, protocol, subset)), official)
    notes["said"] = said + _remarks(clips, drop)
    clips = _with_apex(clips) if drop and not clips.apex_on_disk.all() else clips
    empty = [name for name, n in zip(clips.class_names, clips.per_class, strict=True) if not n]
    clips.notes["said"] += remark("classes without a clip, whose F1 is 0", empty)
    print(summary(clips), flush=True)
    return clips


def check_list(dataset, classes, protocol, subset):
    """Raise InputError for a combination of options without a clip list. dataset: a key of DATABASES."""
    for name, value, choices in (("classes", classes, (3, 5)), ("subset", subset, SUBSETS)):
        if value not in choices:
            raise InputError(f"--{name} {value}: no such {name}; choose from {', '.join(map(str, choices))}")
    if protocol not in PROTOCOLS and not Path(protocol).suffix:
        raise InputError(f"--protocol {protocol}: no such protocol; choose from {', '.join(PROTOCOLS)}, or "
                         "give a .csv file")
    if classes == 5 and dataset != "casme":
        raise InputError(f"--classes 5 --dataset {dataset}: only casme has 5 classes; use --classes 3")
    if classes == 5 and protocol == "megc2019":
        raise InputError("--classes 5 --protocol megc2019: MEGC 2019 has 3 classes; use --protocol dsnca")
    if dataset == "synthetic" and (subset != "all" or protocol != "dsnca"):
        raise InputError("--dataset synthetic has one clip list; leave out --subset and --protocol")


def protocol_name(protocol):
    """`protocol` as part of a file name; for a list, its file's stem without special characters."""
    return re.sub(r"[^\w-]+", "-", Path(protocol).stem).strip("-")[:60]


def summary(clips):
    """The counts, the check and the remarks as a few lines of text."""
    classes = ", ".join(f"{name} {n}" for name, n in zip(clips.class_names, clips.per_class, strict=True))
    title = f"{clips.dataset} ({clips.notes['protocol']}, subset {clips.notes['subset']})"
    counts = f"{len(clips.table)} clips, {len(clips.subjects)} subjects; {classes}"
    lines = [f"{title}: {counts}; {clips.notes['check']}"]
    lines += [line(one) for one in clips.notes["said"]]
    lines += [f"  {printable(lost)}" for lost in clips.notes["missing"].splitlines()]
    return "\n".join(lines)


def with_paths(table, data_root, frames=""):
    """(`table` in `COLUMNS` order, its paths filled in from the disk, "" where a frame is not there;
    {database: {folder above its subjects: clips taken from it}}; a line on the missing apex frames, or "").
    """
    parts, places, lines = [], {}, []
    table = table.reset_index(drop=True)
    if frames is None:
        return table.assign(**dict.fromkeys(PATHS, ""))[COLUMNS], {}, ""
    for data, part in table.groupby("data", sort=False):
        clips = list(zip(part["subject"], part["clip"], part["apex_frame"], strict=True))
        folders = ClipFolders(data, [clip[:2] for clip in clips], data_root, frames)
        ends = part[["onset_frame", "offset_frame"]].to_numpy().tolist()
        taken, found = zip(*(folders.find(*clip, both) for clip, both in zip(clips, ends, strict=True)),
                           strict=True)
        part = part.assign(**{f"{name}_path": [folders.relative(there.get(number)) for there, number
                                               in zip(found, part[name], strict=True)] for name in FRAMES})
        places[data] = {source: taken.count(source) for source in folders.sources}
        lost = [clip for clip, path in zip(clips, part["apex_frame_path"], strict=True) if not path]
        if lost:
            why = next((folders.explain(*clip) for clip in lost if clip[2] >= 0),
                       f"the missing ones are not coded; {_remedy([data])}")
            lines.append(f"{data}: {len(part) - len(lost)} of {len(part)} apex frames are on disk; {why}")
        parts.append(part)
    return pd.concat(parts).sort_index()[COLUMNS], places, ";\n".join(lines)


def _check_root(dataset, root):
    """Raise InputError when there is no data root; make the synthetic database where it is not there."""
    if not os.path.isdir(root):
        raise InputError(f"--data-root {root}: no such folder; put the databases there as data/README.md "
                         "says, or make it for --dataset synthetic")
    if dataset == "synthetic" and not is_there(root):
        from synthetic.database import ensure  # only here: it needs the whole 3-D package

        ensure(root)


def _from_sheets(dataset, root, classes, protocol):
    """(table without paths, remarks, the sheets, whether they have all rows) by the owners' sheets."""
    parts = (_coded(data, root, classes, protocol) for data in DATABASES[dataset])
    tables, said, sheets, whole = zip(*parts, strict=True)
    return pd.concat(tables, ignore_index=True), [*chain(*said)], [*chain(*sheets)], all(whole)


def _coded(data, root, classes, protocol):
    """(the clips of a sheet that belong to a class, with label and frames; remarks; the files; whether the
    sheet has all the owners' rows)."""
    table, repeated, files = read_sheet(data, root)
    whole = len(table) + len(repeated) == BLOCKS[data].rows
    words = BLOCKS[data].labels[classes]
    if protocol == "megc2019":
        table = table[~clip_pairs(table).isin(NOT_IN_MEGC2019)]
    for row, emotion in table["emotion"][~table["emotion"].isin(words)].items():
        raise InputError(f"{files[0]} row {row}: {table['subject'][row]} {table['clip'][row]} is coded "
                         f"{emotion!r}; known emotions are {', '.join(words)}: correct the sheet")
    corrected = clip_pairs(table).isin(SADNESS_TO_SURPRISE) & (table["emotion"] == "sadness")
    table = table.assign(data=data, data_sub=f"{data}_" + table["subject"],
                         emotion=table["emotion"].mask(corrected, "surprise"))
    said = [*remark("sadness counted as surprise, as in the published lists", _keys(table[corrected])),
            *remark("row there twice, used once", [f"{data}/{clip}" for clip in repeated])]
    table["label"] = table["emotion"].map(words)
    table = table[table["label"].notna()].astype({"label": "int64"})
    if table.empty:
        raise InputError(f"{files[0]}: no clip belongs to one of the {classes} classes; "
                         "use the owners' sheet")
    return table, said, files, whole


def _from_list(dataset, root, classes, protocol):
    """(table without paths, remarks, [file, sheets], False) by a list of clips: its labels and frame numbers;
    frame columns that it lacks are the owners' sheets'."""
    places = (Path(protocol), root / "annotations" / protocol, root / protocol)
    path = next((path for path in places if os.path.isfile(path)), None)
    if path is None:
        raise InputError(f"--protocol {protocol}: no such file, nor in {root / 'annotations'}; give a list "
                         f"with the columns {', '.join(COLUMNS[:7])}, or one of {', '.join(PROTOCOLS)}")
    wanted = ("data", "subject", "clip", "label", *FRAMES, "emotion")
    table = read_columns(path, wanted, optional=("emotion", *FRAMES))
    lacking = [name for name in FRAMES if name not in table]
    for row, name in table["data"].items():
        try:
            table.loc[row, "data"] = database_name(name)
        except InputError as error:
            raise InputError(f"{path} row {row}: data {str(error).removeprefix('--dataset ')}") from error
    here = table["data"].isin(DATABASES[dataset])
    others, table = table["data"][~here], table[here]
    if table.empty:
        raise InputError(f"{path}: no clip of {dataset}; it has {', '.join(others.unique())}")
    for data, part in table.groupby("data"):
        table.loc[part.index, "subject"] = subject_names(path, part["subject"], BLOCKS[data].subject)
    table, repeated = checked(path, table, ("label", *(name for name in FRAMES if name in table)))
    for row, label in table["label"][table["label"] >= classes].items():
        raise InputError(f"{path} row {row}: the label is {label}; --classes {classes} has 0-{classes - 1}")
    if classes == 5 and table["label"].max() < 3:
        raise InputError(f"{path}: no label above 2, so it is no list of 5 classes; use --classes 3")
    names = table["label"].map(dict(enumerate(FIVE if classes == 5 else THREE)))
    emotion = table["emotion"].mask(table["emotion"] == "", names) if "emotion" in table else names
    table = table.assign(data_sub=table["data"] + "_" + table["subject"], emotion=emotion)
    said = [*remark("rows of other databases left out", list(others.unique()), len(others)),
            *remark("row there twice, used once", repeated)]
    sheets = [str(path)]
    if lacking:
        table, more = _with_frames(path, table, lacking, root)
        said += remark("columns that the list lacks, taken from the owners' sheets", lacking)
        sheets += more
    return table, said, sheets, False


def _with_frames(path, table, columns, root):
    """(a list's `table` with these frame `columns` from the owners' sheets, the sheets).

    Raises: InputError naming the clips that a sheet lacks, or when there is no sheet.
    """
    parts, sheets = [], []
    for data, part in table.groupby("data", sort=False):
        coded, _, files = read_sheet(data, root)
        rows, wanted = {pair: row for row, pair in clip_pairs(coded).items()}, clip_pairs(part)
        lost = part[~wanted.isin(rows)]
        if len(lost):
            raise InputError(f"{path}: has no {', '.join(columns)}, and {files[0]} lacks {len(lost)} of its "
                             f"clips: {listed(_keys(lost))}; correct the list, or give it these columns")
        coded = coded.loc[wanted.map(rows), columns].set_axis(part.index)
        parts.append(part.assign(**coded))
        sheets += files
    return pd.concat(parts).sort_index(), sheets


def _of_subset(table, subset, sheets, need_apex):
    """The rows of a subset. Raises: InputError when none is left, or with `need_apex` one has none."""
    if subset == "glasses":
        table = table[[subject_number(row.subject) in BLOCKS[row.data].glasses for row in table.itertuples()]]
    if table.empty:
        raise InputError(f"{sheets[0]}: no clip is left for --subset {subset}")
    uncoded = table[table["apex_frame"] < 0]
    if need_apex and len(uncoded):
        raise InputError(f"{', '.join(sheets)}: no apex frame for {len(uncoded)} clips ("
                         f"{', '.join(uncoded['clip'][:5])}); {_remedy(set(uncoded['data']))}, or leave them "
                         "out (--skip-missing)")
    return table


def _with_apex(clips):
    """The clips whose apex frame is on disk; the check says how many are not. Raises: InputError for none."""
    there, notes = clips.apex_on_disk, clips.notes
    if not there.any():
        raise InputError(f"{clips.data_root}: no apex frame of any clip is on disk; {notes['missing']}; see "
                         "data/README.md")
    check = f"before {(~there).sum()} were dropped: {notes['check']}"
    return replace(clips, table=clips.table[there].reset_index(drop=True), notes={**notes, "check": check})


def _remedy(databases):
    """What gives clips of these databases the apexes that nobody coded."""
    return ("run smic_processing.py, or put smic_apex_frames.csv beside the sheet" if "smic" in databases else
            "correct the sheet")


def _remarks(clips, skip_missing):
    """What is to be said of the frames: not on disk, out of order, in several folders."""
    table, lost = clips.table, clips.table[~clips.apex_on_disk]
    said = remark("dropped, no apex frame on disk (--skip-missing)" if skip_missing else
                   "apex frame not on disk", _keys(lost)) if clips.notes["frames"] else []
    ordered = (table["onset_frame"] <= table["apex_frame"]) & (table["apex_frame"] <= table["offset_frame"])
    said += remark("the folder holds as many pictures as the clip is long, but not its onset or offset: "
                   "numbered otherwise than in the sheet?", _keys(_misnumbered(clips)))
    said += remark("frames out of order", _keys(table[~ordered & (table["apex_frame"] >= 0)]))
    for data, places in clips.notes["frames"].items():
        if len(places) > 1:
            said += remark(f"{data} lies in {len(places)} folders (--frames chooses); clips taken from",
                            [f"{place}: {n}" for place, n in places.items()], sum(places.values()))
    return said


def _misnumbered(clips):
    """The rows of clips whose apex number is on disk, but likely another picture."""
    table = clips.table[clips.apex_on_disk]
    table = table[(table["onset_frame_path"] == "") | (table["offset_frame_path"] == "")]
    there = [len(list_frames((clips.data_root / path).parent)) for path in table["apex_frame_path"]]
    return table[np.array(there) > table["offset_frame"] - table["onset_frame"]]


def _compared(clips, expected, official):
    """The counts against SPEC section 1, in words. Raises: InputError when whole sheets give others."""
    def words(clips, subjects, per_class):
        return f"{clips} clips, {subjects} subjects, {' / '.join(map(str, per_class))}"

    found = (len(clips.table), len(clips.subjects), clips.per_class)
    if expected is None:
        return "no published counts for this list"
    if found == expected:
        return "matches the protocol"
    if official:
        raise InputError(f"{', '.join(clips.notes['sheets'])}: gives {words(*found)}, but the protocol has "
                         f"{words(*expected)}; use the owners' sheets")
    return f"differs: the protocol has {words(*expected)}"


def _name(dataset, classes, protocol, subset):
    return "_".join([dataset, str(classes), *([protocol_name(protocol)] if protocol != "dsnca" else []),
                     *([subset] if subset != "all" else [])])


def _keys(table):
    return [f"{row.data}/{row.subject}/{row.clip}" for row in table.itertuples()]
