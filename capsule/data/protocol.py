"""The clips of an experiment: from the owners' sheets to one checked table (SPEC section 1)."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from capsule.data.folders import Folders, find_child
from capsule.data.sheets import SHEETS, find_sheet, frame_number, read_apexes, read_sheet
from common.errors import InputError

DATABASES = {"casme": ("casme",), "smic": ("smic",), "samm": ("samm",),
             "composite": ("casme", "smic", "samm"), "synthetic": ("synthetic",)}
PROTOCOLS = ("dsnca", "megc2019")
SUBSETS = ("all", "glasses")
COLUMNS = ["data", "subject", "clip", "label", "onset_frame", "apex_frame", "offset_frame",
           "onset_frame_path", "apex_frame_path", "offset_frame_path", "data_sub", "emotion"]
THREE = ("negative", "positive", "surprise")
FIVE = ("disgust", "happiness", "surprise", "repression", "others")

# What each coded emotion counts as; None = not part of the clip list. Any other word is an error.
_CASME_3 = {"disgust": 0, "repression": 0, "happiness": 1, "surprise": 2,
            "others": None, "other": None, "sadness": None, "fear": None}
_CASME_5 = {"disgust": 0, "happiness": 1, "surprise": 2, "repression": 3, "others": 4, "other": 4,
            "sadness": None, "fear": None}
LABELS = {
    ("casme", 3): _CASME_3, ("synthetic", 3): _CASME_3, ("casme", 5): _CASME_5,
    ("smic", 3): {"negative": 0, "positive": 1, "surprise": 2},
    ("samm", 3): {"anger": 0, "contempt": 0, "disgust": 0, "fear": 0, "sadness": 0, "happiness": 1,
                  "surprise": 2, "other": None, "others": None},
}

# Three clips of CASME II are coded sadness; the published clip lists count them as surprise.
SADNESS_TO_SURPRISE = {("sub24", "ep07_01"), ("sub24", "ep07_04f"), ("sub24", "ep10_03")}
# One clip of CASME II has "/" for its apex: the published lists take its offset frame.
NO_APEX = {("sub04", "ep12_01f")}
# The MEGC 2019 list lacks five clips of CASME II.
NOT_IN_MEGC2019 = SADNESS_TO_SURPRISE | {("sub04", "ep12_01f"), ("sub05", "ep09_05f")}

# Subjects filmed with glasses.
GLASSES = {
    "casme": {f"sub{n:02d}" for n in (3, 6, 12, 13, 14, 15, 16, 20, 22, 23, 24, 25, 26)},
    "smic": {str(n) for n in (1, 4, 5, 6, 8, 9, 12, 15, 18, 19)},
    "samm": {f"{n:03d}" for n in (10, 20, 21, 32, 37)},
}

# What SPEC section 1 gives for a clip list: clips, subjects, clips per class.
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

SHOWN = 10      # notices of one kind that are printed; all are in the notes


@dataclass(frozen=True)
class Clips:
    """The clips of one experiment, in the order of the sheets.

    table: one row a clip, columns `COLUMNS`; frame paths are relative to the data root, "" where not on disk.
    notes: what a reader of the results should know (JSON types only): name, protocol, subset, clips (how
    many), expected, check, sheets, rows, duplicates, corrections, order (rows whose frames are out of order),
    skipped.
    """

    table: pd.DataFrame
    dataset: str
    class_names: tuple
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
        """bool (number of clips,): is the apex frame there?"""
        return (self.table["apex_frame_path"] != "").to_numpy(bool)

    @property
    def name(self):
        """What its files are called: dataset, classes, and the protocol and subset where not the default."""
        return self.notes["name"]


def load_clips(config):
    """The clips of `config.dataset` by `config.protocol` and `config.subset`, checked against SPEC section 1.

    Prints the counts, and whether they are the protocol's, before it returns. A sheet that has as many rows
    as the owners' must give the published counts; another sheet's differences are only said. With
    `config.skip_missing`, clips without an apex frame on disk are dropped, said, and listed in
    notes["skipped"].
    A synthetic database that is not there yet is made.
    Raises: InputError for a wrong option, a missing or unusable sheet, a label outside the classes, or counts
    that contradict the protocol.
    """
    _check_options(config)
    root = Path(config.data_root)
    if config.dataset == "synthetic" and find_sheet("synthetic", root) is None:
        from synthetic.database import ensure  # only here: it needs the whole 3-D package

        ensure(config.data_root)
    parts = [_read_database(data, root, config) for data in DATABASES[config.dataset]]
    table = pd.concat([table for table, _ in parts], ignore_index=True)
    notes = _merged_notes(config, [notes for _, notes in parts])
    class_names = FIVE if config.classes == 5 else THREE
    clips = Clips(annotation_table(table, root), config.dataset, class_names, notes)
    _check_counts(clips, config)
    print(summary(clips), flush=True)
    return _drop_missing(clips) if config.skip_missing else clips


def summary(clips):
    """The counts, the check and the notices as a few lines of text."""
    classes = ", ".join(f"{name} {n}" for name, n in zip(clips.class_names, clips.per_class, strict=True))
    title = f"{clips.dataset} ({clips.notes['protocol']}, subset {clips.notes['subset']})"
    counts = f"{len(clips.table)} clips, {len(clips.subjects)} subjects; {classes}"
    lines = [f"{title}: {counts}; {clips.notes['check']}"]
    said = {"corrections": "corrected as in the published lists", "duplicates": "repeated row, used once",
            "order": "frames out of order"}
    for name, text in said.items():
        items = clips.notes[name]
        if items:
            more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
            lines.append(f"  {text}: {'; '.join(items[:SHOWN])}{more}")
    return "\n".join(lines)


def annotation_table(table, data_root):
    """`table` with the three path columns filled from the disk ("" where a frame is not there), in `COLUMNS`
    order: what is written under annotations/. Paths are relative to `data_root`."""
    folders = Folders(data_root)
    table = table.copy()
    found = [folders.frames(row.data, row.subject, row.clip, row.apex_frame) for row in table.itertuples()]
    for moment in ("onset", "apex", "offset"):
        wanted = table[f"{moment}_frame"]
        table[f"{moment}_frame_path"] = [folders.relative(frames.get(number))
                                         for frames, number in zip(found, wanted, strict=True)]
    return table[COLUMNS]


def smic_onsets(data_root):
    """SMIC's clips without apexes, for smic_processing.py: a DataFrame with columns data, subject, clip,
    label, onset_frame, offset_frame, data_sub, emotion. With an `apex_frame` column added, `annotation_table`
    completes it.

    Raises: InputError when the data root or the sheet is not there or not usable.
    """
    _check_root(data_root)
    sheet, notes = read_sheet("smic", Path(data_root))
    return _coded("smic", 3, sheet, notes)[0].drop(columns=["apex"], errors="ignore")


def expected_counts(config):
    """(clips, subjects, clips per class) that SPEC section 1 gives for this clip list, or None."""
    return EXPECTED.get((config.dataset, config.classes, config.protocol, config.subset))


def _check_options(config):
    options = {"dataset": tuple(DATABASES), "classes": (3, 5), "protocol": PROTOCOLS, "subset": SUBSETS}
    for name, choices in options.items():
        value = getattr(config, name)
        if value not in choices:
            raise InputError(f"--{name} {value}: no such {name}; choose from {', '.join(map(str, choices))}")
    if config.classes == 5 and config.dataset != "casme":
        raise InputError(f"--classes 5 --dataset {config.dataset}: only casme is coded in 5 classes; "
                         "use --classes 3")
    if config.classes == 5 and config.protocol == "megc2019":
        raise InputError("--classes 5 --protocol megc2019: MEGC 2019 has 3 classes; use --protocol dsnca")
    if config.dataset == "synthetic" and (config.subset != "all" or config.protocol != "dsnca"):
        raise InputError("--dataset synthetic has one clip list; leave out --subset and --protocol")
    if config.dataset != "synthetic":
        _check_root(config.data_root)


def _check_root(data_root):
    if not Path(data_root).is_dir():
        raise InputError(f"--data-root {data_root}: no such folder; put the databases there as "
                         "data/README.md says")


def _read_database(data, root, config):
    """(table without paths, notes) of one database, its exclusions and subset applied."""
    sheet, notes = read_sheet(data, root)
    table, notes = _coded(data, config.classes, sheet, notes)
    if data == "smic":
        table, notes["apexes"] = _with_smic_apexes(table, root, Path(notes["sheet"]))
    else:
        table["apex_frame"] = [_apex(data, notes["sheet"], row) for row in table.itertuples()]
    table = table.drop(columns=["apex"], errors="ignore")
    if data == "casme" and config.protocol == "megc2019":
        table = table[[key not in NOT_IN_MEGC2019 for key in _pairs(table)]]
    if config.subset == "glasses":
        table = table[table["subject"].isin(GLASSES[data])]
    ordered = (table["onset_frame"] <= table["apex_frame"]) & (table["apex_frame"] <= table["offset_frame"])
    notes["order"] = [f"{row.data}/{row.subject}/{row.clip}: onset {row.onset_frame}, apex {row.apex_frame}, "
                      f"offset {row.offset_frame}" for row in table[~ordered].itertuples()]
    return table, notes


def _coded(data, classes, sheet, notes):
    """Sheet rows → (the clips that belong to a class, with label, data_sub and frames; notes)."""
    words, labels, corrections = LABELS[data, classes], [], []
    emotions = list(sheet["emotion"])
    for i, row in enumerate(sheet.itertuples()):
        if row.emotion not in words:
            raise InputError(f"{notes['sheet']} row {row.row}: {row.subject} {row.clip} is coded "
                             f"{row.emotion!r}; known emotions are {', '.join(words)}: correct the sheet")
        key = (row.subject, row.clip.casefold())
        if data == "casme" and row.emotion == "sadness" and key in SADNESS_TO_SURPRISE:
            emotions[i] = "surprise"
            corrections.append(f"{row.subject} {row.clip}: sadness → surprise")
        labels.append(words[emotions[i]])
    table = sheet.rename(columns={"onset": "onset_frame", "offset": "offset_frame"}).drop(columns=["row"])
    table = table.assign(data=data, emotion=emotions, data_sub=f"{data}_" + sheet["subject"])
    kept = [label is not None for label in labels]
    if not any(kept):
        raise InputError(f"{notes['sheet']}: no clip belongs to one of the {classes} classes; "
                         "put the owners' sheet in its place")
    table = table[kept].assign(label=np.array([label for label in labels if label is not None], np.int64))
    return table, {**notes, "corrections": corrections}


def _apex(data, sheet, row):
    """The apex frame of one row of a coded table."""
    if data == "casme" and row.apex == "/" and (row.subject, row.clip.casefold()) in NO_APEX:
        return row.offset_frame
    return frame_number(row.apex, f"{sheet}: {row.subject} {row.clip}: the apex frame")


def _with_smic_apexes(table, root, sheet_path):
    """(table with apex_frame from smic_processing.py or the spotted table beside the sheet, path of that)."""
    annotations = find_child(root, "annotations")
    path = find_child(annotations, "smic_apex.csv")
    path = path or find_child(sheet_path.parent, "smic_apex_frames.csv")
    if path is None:
        raise InputError(f"{root}: SMIC is coded without apex frames, and neither annotations/smic_apex.csv "
                         "nor smic_apex_frames.csv beside its sheet is there; run smic_processing.py")
    apexes = read_apexes(path)
    missing = [clip for clip in table["clip"] if clip.casefold() not in apexes]
    if missing:
        raise InputError(f"{path}: no apex frame for {len(missing)} clips ({', '.join(missing[:5])}); "
                         "run smic_processing.py")
    return table.assign(apex_frame=[apexes[clip.casefold()] for clip in table["clip"]]), str(path)


def _merged_notes(config, parts):
    """The notes of one or several databases as one dict."""
    name = "_".join([config.dataset, str(config.classes),
                     *([config.protocol] if config.protocol != "dsnca" else []),
                     *([config.subset] if config.subset != "all" else [])])
    notes = {"name": name, "protocol": config.protocol, "subset": config.subset, "skipped": [],
             "sheets": [part["sheet"] for part in parts], "rows": [part["rows"] for part in parts]}
    for key in ("duplicates", "corrections", "order"):
        notes[key] = [item for part in parts for item in part.get(key, ())]
    if config.protocol == "megc2019":
        notes["corrections"] = []   # the corrected clips are not in that list
    return notes


def _check_counts(clips, config):
    """Write the comparison with SPEC section 1 into the notes. Raises: InputError, see `load_clips`."""
    expected = expected_counts(config)
    found = (len(clips.table), len(clips.subjects), clips.per_class)
    official = [SHEETS[data].rows for data in DATABASES[config.dataset]]
    clips.notes["clips"] = len(clips.table)
    clips.notes["expected"] = expected and [*expected[:2], list(expected[2])]
    if not len(clips.table):
        raise InputError(f"{clips.notes['sheets'][0]}: no clip is left for --subset {config.subset}")
    if expected is None:
        clips.notes["check"] = "no published counts for this list"
    elif found == expected:
        clips.notes["check"] = "matches the protocol"
    else:
        published = f"the protocol has {expected[0]} clips, {expected[1]} subjects, {_slashed(expected[2])}"
        clips.notes["check"] = f"differs: {published}"
        if clips.notes["rows"] == official:
            raise InputError(f"{', '.join(clips.notes['sheets'])}: gives {found[0]} clips, {found[1]} "
                             f"subjects, {_slashed(found[2])}, but {published}; use the owners' sheets")


def _drop_missing(clips):
    """The clips whose apex frame is on disk; the others are listed in the notes."""
    there = clips.apex_on_disk
    skipped = [key for key, on_disk in zip(clips.keys, there, strict=True) if not on_disk]
    if not there.any():
        raise InputError(f"{clips.notes['sheets'][0]}: no apex frame of any clip is on disk; lay the frames "
                         "under the data root as data/README.md says")
    if skipped:
        print(f"  dropped by --skip-missing: {len(skipped)} clips without an apex frame on disk: "
              f"{', '.join(skipped[:SHOWN])}{' ...' if len(skipped) > SHOWN else ''}", flush=True)
    table = clips.table[there].reset_index(drop=True)
    notes = {**clips.notes, "clips": len(table), "skipped": skipped}
    return Clips(table, clips.dataset, clips.class_names, notes)


def _keys(table):
    return [f"{row.data}/{row.subject}/{row.clip}" for row in table.itertuples()]


def _pairs(table):
    return [(row.subject, row.clip.casefold()) for row in table.itertuples()]


def _slashed(numbers):
    return " / ".join(map(str, numbers))
