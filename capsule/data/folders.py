"""Frames on disk: one walk finds a database's clips, however they lie there (SPEC section 1)."""

import difflib
import functools
import os
import re
from pathlib import Path

from capsule.data.databases import BLOCKS, squeeze
from capsule.data.remarks import listed
from common.errors import InputError
from common.images import IMAGE_SUFFIXES

OURS = ("annotations", "crops", "views", "motion", "result")    # what the programs write under the data root

FRAME = r"(reg_)?(img|image|frame)?[-_ ]?[0-9]"     # img46.jpg, reg_image034208.jpg, 006_05562.jpg


class ClipFolders:
    """Where the clips of one database lie.

    A clip is a folder `<subject>/.../<clip>` at any depth below the database's folder, or below the data root
    where no folder has the database's name; a subject is its number, with or without zeros, after sub, s or
    nothing. Case does not matter; folders may be symbolic links. Nothing outside the data root is looked at
    but what such links lead to. A clip's pictures are listed when they are asked for.

    data: key of BLOCKS. wanted: (subject, clip) pairs as the clip table writes them. prefer: part of a
    folder's name: only clips below such a folder count (`--frames`).
    Raises: InputError when no folder fits `prefer`.
    """

    def __init__(self, data, wanted, data_root, prefer=""):
        self.data, self.root, self._prefer = data, Path(data_root), prefer
        self._list = functools.cache(list_frames)
        self._wanted = {}           # clip in lower case → {subject number: the pair as the table writes it}
        self._walked, wanted = [], set(wanted)
        for subject, clip in wanted:
            self._wanted.setdefault(clip.casefold(), {})[subject_number(subject)] = subject, clip
        self._seen, self._unreadable, found, fitting = [], [], [], []
        for places in [*named_folders(data, self.root), [] if data == "synthetic" else [self.root]]:
            for place in places:
                found += self._walk(place)
            fitting = [(pair, source, folder) for pair, source, folder in found
                       if prefer.casefold() in self.relative(folder.parent).casefold()]
            self._walked += places
            if wanted <= {pair for pair, _, _ in fitting}:
                break
        if prefer and not fitting:
            sources = sorted({source for _, source, _ in found})
            near = difflib.get_close_matches(prefer, sources, n=1, cutoff=0)
            raise InputError(f"--frames {prefer}: no such folder holds clips of {data} under {self.root}; "
                             f"these do: {listed(sources) or 'none'}"
                             + (f"; nearest: {near[0]}" if near else ""))
        fitting.sort(key=self._preference)
        self.sources = list(dict.fromkeys(source for _, source, _ in fitting))     # above the subjects
        self._found = {}            # (subject, clip) → [(source, folder)], the best first
        for pair, source, folder in fitting:
            self._found.setdefault(pair, []).append((source, folder))

    def find(self, subject, clip, number=None, others=()):
        """(folder above the subjects, relative to the root; {frame number: path}, ascending) of a clip; empty
        when it is not on disk. Of several folders, those that have frame `number` come first, then those with
        most of the `others`, then as they were found."""
        there = [(source, self._list(folder)) for source, folder in self._found.get((subject, clip), ())]
        return max([*filter(lambda one: one[1], there), ("", {})], key=lambda one: (
            number in one[1], sum(other in one[1] for other in others)))

    def explain(self, subject, clip, number):
        """One line on a clip whose frame `number` was not found: what was looked for, seen and nearest."""
        folders = [folder for _, folder in self._found.get((subject, clip), ())]
        if folders:
            there = list(self._list(folders[0]))
            held = f"frames {there[0]} to {there[-1]}" if there else "no pictures"
            if 0 < len(there) < len(os.listdir(folders[0])):
                held += " (the last digits of its pictures' names)"
            return (f"{self.data}/{subject}/{clip}: frame {number} was looked for, "
                    f"{self.relative(folders[0])} holds {held}")
        tails = {"/".join(path.parts[-2:]): path for path in self._seen}
        near = difflib.get_close_matches(f"{subject}/{clip}", tails, n=1)
        tops = sorted({"/".join(path.parts[:2]) for path in self._seen})
        n = str(subject_number(subject))
        *names, last = dict.fromkeys([subject, f"s{n}", n])
        return (f"{self.data}/{subject}/{clip}: looked for <{', '.join(names)} or {last}>/.../{clip}/"
                f"*{number}.jpg under {self.root}{f' with --frames {self._prefer}' if self._prefer else ''}"
                f"; folders seen: {listed(tops) or 'none'}"
                + (f"; nearest: {tails[near[0]].as_posix()}" if near else "")
                + (f"; could not be read: {listed(self._unreadable)}" if self._unreadable else ""))

    def relative(self, path):
        """`path` relative to the data root, with forward slashes; "" for None."""
        return "" if path is None else path.relative_to(self.root).as_posix()

    def _walk(self, place):
        """Yield the wanted clips below the folder `place`: (pair, source, folder)."""
        def closed(error):
            self._unreadable.append(self.relative(Path(error.filename)))

        for folder, names, _ in os.walk(place, followlinks=True, onerror=closed):
            folder, entries = Path(folder), sorted(names)
            names.clear()           # os.walk goes down into what is put here
            parts = folder.relative_to(self.root).parts
            if os.path.realpath(folder) in map(os.path.realpath, folder.parents[:len(parts)]):
                continue            # a link that leads back
            depth = _subject_depth(parts)
            number = None if depth is None else subject_number(parts[depth])
            for name in entries:
                path, pair = folder / name, self._wanted.get(name.casefold(), {}).get(number)
                if pair:
                    yield pair, "/".join(parts[:depth]) or ".", path
                other = re.fullmatch(BLOCKS[self.data].other_parts, squeeze(name))
                ours = folder == self.root and name.casefold() in OURS
                if not (ours or path in self._walked or name.startswith((".", "__MACOSX"))):
                    self._seen.append(path.relative_to(self.root))
                    unpacked = not pair or os.path.isdir(path / name)    # a clip's own zip: its folder twice
                    if unpacked and not (other or (folder == self.root and _claimed(self.data, name))):
                        names.append(name)

    def _preference(self, found):
        """Raw before cropped frames, then the shortest way down, then by name."""
        source, path = found[1].casefold(), self.relative(found[2]).casefold()
        return "crop" in path, source.count("/"), source, path


def _subject_depth(parts):
    """Which of a path's parts is the subject: the last sub05, else the last number (of a class, or of a part
    of a download, where there is a sub05 above); None where none is."""
    numbers = [i for i, part in enumerate(parts) if subject_number(part) is not None]
    return max([i for i in numbers if parts[i].casefold().startswith("sub")] or numbers, default=None)


def list_frames(folder):
    """{frame number: path}, ascending, of the pictures in one clip's folder.

    The number is the last run of digits of the name without its ending. Where two pictures carry one number,
    the first in alphabetical order is taken, a frame's usual name (FRAME) before any other (flow_46.png).
    Hidden files and what is no file are left out.
    Raises: InputError when the folder cannot be read.
    """
    folder, found = Path(folder), {}
    try:
        names = [entry.name for entry in os.scandir(folder)
                 if entry.is_file(follow_symlinks=False) or os.path.isfile(entry)]
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    for name in sorted(names, key=lambda name: (not re.match(FRAME, name, re.IGNORECASE), name)):
        stem, suffix = os.path.splitext(name)
        runs = re.findall(r"[0-9]+", stem)
        if runs and suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
            found.setdefault(int(runs[-1][-18:]), folder / name)
    return dict(sorted(found.items()))


def subject_number(name):
    """The number in a subject's name (sub01, s1, 006), None for any other name."""
    match = re.fullmatch(r"(?:subject|sub|s)?[ _-]?0*([0-9]{1,6})", name, re.IGNORECASE)
    return int(match[1]) if match else None


def named_folders(data, root):
    """Lists of the folders directly under `root` that carry a name of database `data`, the surest first."""
    _, names, _ = next(os.walk(root), ("", [], []))
    names = [name for name in names if not re.fullmatch(BLOCKS[data].other_parts, squeeze(name))]
    return [[Path(root, name) for name in sorted(names) if re.match(pattern, squeeze(name))]
            for pattern in BLOCKS[data].folders]


def _claimed(data, name):
    """Whether a folder in the data root carries the name of another database than `data`."""
    others = [pattern for other, block in BLOCKS.items() if other != data for pattern in block.folders]
    return any(re.match(pattern, squeeze(name)) for pattern in others)

