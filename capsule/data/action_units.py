"""The action units of FACS that the owners coded: what a classifier may learn from beside the classes."""

import re
from dataclasses import replace

import numpy as np

from capsule.data.databases import BLOCKS
from capsule.data.remarks import remark, say
from capsule.data.sheets import owners_sheet, read_columns, subject_names
from common.errors import InputError

FEWEST = 10     # training clips that show a unit, or nothing is learnt from it


def with_action_units(clips):
    """`clips` with one more column of the table, `action_units`: as the owners' sheets code them ("4+L10"),
    None where they do not (SMIC's does not at all): said, as are folds in which all units are too rare.

    Raises: InputError when a sheet is not there or not usable, or no clip is coded.
    """
    coded = {}
    for data in clips.table["data"].unique():
        path, block = owners_sheet(data, clips.data_root), BLOCKS[data]
        sheet = read_columns(path, ("subject", "clip", "action units"), block.tab, optional=("action units",))
        subjects = subject_names(path, sheet["subject"], block.subject)
        for subject, clip, text in zip(subjects, sheet["clip"], sheet.get("action units", []), strict=False):
            coded[data, subject, clip.casefold()] = text
    texts = [coded.get((row.data, row.subject, row.clip.casefold())) for row in clips.table.itertuples()]
    texts = [text if text and _numbers(text) else None for text in texts]
    lacking = [key for key, text in zip(clips.keys, texts, strict=True) if text is None]
    if len(lacking) == len(texts):
        raise InputError(f"{clips.dataset}: no clip has action units coded; CASME II and SAMM have them, and "
                         "the composite")
    own = clips.table["data_sub"].to_numpy()
    units = np.nan_to_num(unit_matrix(texts))                                       # (clips, units)
    bare = [name for name in clips.subjects if units[own != name].sum(0).max(initial=0) < FEWEST]
    said = [*remark("action units not coded", lacking),
            *remark(f"folds that learn from no action unit, as none is in {FEWEST} training clips", bare)]
    say(said)
    notes = {**clips.notes, "said": [*clips.notes.get("said", ()), *said]}
    return replace(clips, table=clips.table.assign(action_units=texts), notes=notes)


def unit_matrix(texts):
    """Texts of action units (None: not coded) → float32 (n, units): 1 where a unit is coded, 0 where it is
    not, a row of nan where none is; a column for each unit that occurs, in the order of their numbers."""
    found = [_numbers(text) if isinstance(text, str) else None for text in texts]
    units = sorted(set().union(*(one for one in found if one)))
    return np.float32([[np.nan if one is None else unit in one for unit in units] for one in found])


def _numbers(text):
    return {int(number) for number in re.findall(r"(?<!\d)\d{1,2}(?!\d)", text)}
