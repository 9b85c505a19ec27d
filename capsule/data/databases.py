"""What each database is: names, folders, sheet, classes (SPEC section 1). A new one is one block here."""

import difflib
import re
from dataclasses import dataclass

from common.errors import InputError

THREE = ("negative", "positive", "surprise")
FIVE = ("disgust", "happiness", "surprise", "repression", "others")
DATABASES = {"casme": ("casme",), "smic": ("smic",), "samm": ("samm",),
             "composite": ("casme", "smic", "samm"), "synthetic": ("synthetic",)}
# Other ways in which people write those names, without case and punctuation.
SPELLINGS = {"casme2": "casme", "casmeii": "casme", "smichs": "smic", "smichse": "smic",
             "combined": "composite", "full": "composite"}

# What each coded emotion counts as; None = not part of the clip list. Any other word is an error.
_CASME_3 = {"disgust": 0, "repression": 0, "happiness": 1, "surprise": 2,
            "others": None, "other": None, "sadness": None, "fear": None}
_CASME_5 = {"disgust": 0, "happiness": 1, "surprise": 2, "repression": 3, "others": 4, "other": 4,
            "sadness": None, "fear": None}


@dataclass(frozen=True)
class Database:
    """How one database is laid out and annotated. Names of files and folders are compared `squeeze`d."""

    folders: tuple          # how its folder's name under the data root begins, patterns, the surest first
    sheet: str              # its sheet's file name as first published; later editions begin like it
    rows: int               # clips in that sheet as shipped (0: no official sheet)
    labels: dict            # classes → {emotion: label or None}
    subject: str            # a subject's number → its name in tables and results
    glasses: frozenset = frozenset()        # subjects filmed with glasses
    tab: str = ""           # the tab of the workbook; "" = the first
    codes_apex: bool = True
    other_parts: str = r"$^"                # folders of other recordings with clips of the same names


BLOCKS = {
    "casme": Database(
        folders=(r"casme(2|ii)(?!i)", r"casme$"), sheet="CASME2-coding-20140508", rows=255,
        labels={3: _CASME_3, 5: _CASME_5}, subject="sub{:02d}", other_parts=r"casme(1|i|3|iii)",
        glasses=frozenset((3, 6, 12, 13, 14, 15, 16, 20, 22, 23, 24, 25, 26))),
    "smic": Database(
        folders=(r"smic",), sheet="SMIC-HS-E_annotation", rows=157, tab="HS", codes_apex=False,
        labels={3: {"negative": 0, "positive": 1, "surprise": 2}}, subject="{:d}",
        glasses=frozenset((1, 4, 5, 6, 8, 9, 12, 15, 18, 19)),
        other_parts=r"(smic)?e?(vis|nir)(e|long|raw|cropped)*"),
    "samm": Database(
        folders=(r"samm",), sheet="SAMM_Micro_FACS_Codes_v2", rows=159, subject="{:03d}",
        labels={3: {"anger": 0, "contempt": 0, "disgust": 0, "fear": 0, "sadness": 0, "happiness": 1,
                    "surprise": 2, "other": None, "others": None}},
        glasses=frozenset((10, 20, 21, 32, 37))),
    "synthetic": Database(
        folders=(r"synthetic$",), sheet="CASME2-coding-20140508", rows=0, labels={3: _CASME_3},
        subject="sub{:02d}"),
}

# Three clips of CASME II are coded sadness; the published clip lists count them as surprise.
SADNESS_TO_SURPRISE = {("sub24", "ep07_01"), ("sub24", "ep07_04f"), ("sub24", "ep10_03")}
# One clip of CASME II has "/" for its apex: the published lists take its offset frame.
NO_APEX = {("sub04", "ep12_01f")}
# The MEGC 2019 list lacks five clips of CASME II.
NOT_IN_MEGC2019 = SADNESS_TO_SURPRISE | {("sub04", "ep12_01f"), ("sub05", "ep09_05f")}


def database_name(text):
    """`text` as the project's name of a database: CASME2, "casme ii", SMIC-HS-E, SAMM, composite...

    Returns: a key of `DATABASES`. Raises: InputError naming the nearest one.
    """
    word = squeeze(str(text))
    name = SPELLINGS.get(word, word) if "(" not in str(text) else ""     # CAS(ME)^2 is another database
    if name not in DATABASES:
        near = difflib.get_close_matches(word, [*DATABASES, *SPELLINGS], n=1)
        hint = ("MEGC 2019 is --dataset composite --protocol megc2019; " if word.startswith("megc") else
                f"did you mean {SPELLINGS.get(near[0], near[0])}? " if near else "")
        raise InputError(f"--dataset {text}: no such database; {hint}choose from {', '.join(DATABASES)}")
    return name


def squeeze(text):
    """`text` without case, spaces and punctuation."""
    return re.sub(r"[\W_]", "", text.casefold())
