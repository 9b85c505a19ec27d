"""Frames on disk: every layout that the databases come in (SPEC section 1)."""

import os
import re
from pathlib import Path

from common.errors import InputError
from common.images import IMAGE_SUFFIXES

# Where a database's subject folders may lie under its own folder, in the order in which they are tried.
FOLDER = {"casme": "casme2", "smic": "smic", "samm": "samm", "synthetic": "synthetic"}
_CASME_BASES = (("CASME2_RAW_selected",), ("CASME2_RAW_selected", "CASME2_RAW_selected"), (), ("Cropped",))
BASES = {
    "casme": _CASME_BASES,
    "synthetic": _CASME_BASES,
    "smic": (("SMIC_HS_E",), ("HS_long", "SMIC_HS_E"), ()),
    "samm": (("SAMM",), ()),
}


class Folders:
    """The frames of clips under one data root. Every folder is listed once in the life of this object.

    Names are matched without regard to case; folders may be symbolic links. Paths are built from the root's
    name as given, so that `relative` works through links.
    """

    def __init__(self, data_root):
        self.root = Path(data_root)
        self._children = {}

    def frames(self, data, subject, clip, wanted=None):
        """{frame number: path} of a clip, ascending; empty when the clip is not on disk.

        `data`, `subject`, `clip` as in the clip table. A clip that lies in two layouts (CASME II raw and
        cropped) is taken whole from the first that has frame `wanted`, or else from the first with any frame.
        Raises: InputError for a name that could lead out of the data root, or a folder that cannot be read.
        """
        if not (is_plain_name(clip) and is_plain_name(subject)):
            raise InputError(f"{data}/{subject}/{clip}: not a plain folder name; correct it in the sheet")
        first = {}
        for base in BASES[data]:
            for name in _subject_folders(data, subject):
                folder = self._descend(self.root, (FOLDER[data], *base, name, clip))
                numbered = numbered_images(self._entries(folder).values()) if folder is not None else {}
                if wanted in numbered or (wanted is None and numbered):
                    return numbered
                first = first or numbered
        return first

    def relative(self, path):
        """`path` of a frame relative to the data root, with forward slashes; "" for None."""
        return "" if path is None else path.relative_to(self.root).as_posix()

    def _descend(self, folder, names):
        for name in names:
            folder = self._entries(folder).get(name.casefold())
            if folder is None:
                return None
        return folder

    def _entries(self, folder):
        """{name in lower case: path} of what lies in `folder`; empty for what is not a folder."""
        if folder not in self._children:
            self._children[folder] = _list(folder)
        return self._children[folder]


def numbered_images(paths):
    """{frame number: path}, ascending, of the pictures among `paths`.

    The frame number is the last run of digits of the name without its ending. Where two pictures carry one
    number, the first in alphabetical order is taken.
    """
    found = {}
    for path in sorted(paths, key=lambda path: path.name):
        runs = re.findall(r"[0-9]+", path.stem)
        if runs and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            found.setdefault(int(runs[-1][-18:]), path)
    return dict(sorted(found.items()))


def list_frames(folder):
    """{frame number: path}, ascending, of one clip's folder. Raises: InputError when it cannot be read."""
    return numbered_images(_list(Path(folder)).values())


def find_child(folder, name):
    """The entry of `folder` called `name`, whatever its case; None when there is none or no folder."""
    return _list(Path(folder)).get(name.casefold()) if folder is not None else None


def is_plain_name(name):
    """Whether `name` is the name of one file or folder: no separators, no "..", nothing unprintable."""
    plain = re.fullmatch(r"[\w .+()\[\]-]{1,120}", name) is not None
    return plain and not name.startswith(".") and name == name.strip()


def _subject_folders(data, subject):
    """The names that a subject's folder may have."""
    if data == "smic":      # the owners write s03; copies with s3 circulate
        return dict.fromkeys((f"s{int(subject):02d}", f"s{int(subject)}"))
    return (subject,)


def _list(folder):
    """{name in lower case: path}; of two names that differ only in case, the upper-case one wins (sorted)."""
    try:
        return {name.casefold(): folder / name for name in sorted(os.listdir(folder), reverse=True)}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
