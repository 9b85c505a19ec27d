"""The pictures that a person names: files, folders, videos, lists of them."""

import functools
import os
from pathlib import Path

import cv2

from common.errors import InputError
from common.images import find_pictures, read_image

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def find_sources(paths, fps=5.0, out=Path("views")):
    """(result folder, read function) of each picture that `paths` name, in order; each folder is there once.

    fps: about how many frames a second of a video (every n-th is taken); call the read functions of one in
    order, each once. out: what lies in it, results of an earlier call, is left out of folders searched.
    Raises: InputError when nothing was named, a path does not exist, a folder, list or video holds no
    picture, or fps is not above 0.
    """
    if not paths:
        raise InputError("name at least one photograph, folder, video or list; see python -m deca --help")
    if not 0 < fps < 1e6:
        raise InputError(f"--fps {fps}: give frames a second, above 0")
    taken = set()
    for path in paths:
        for place, read in _of_path(path, fps, out.resolve()):
            number, free = 2, place
            while free in taken:
                free, number = place.with_name(f"{place.name}-{number}"), number + 1
            taken.add(free)
            yield free, read
    if not taken:
        raise InputError(f"{out}: every picture found lies in this folder of results; choose another --out")


def _of_path(path, fps, out):
    if path.suffix.lower() in VIDEOS and os.path.isfile(path):
        yield from _of_video(path, fps)
    elif path.suffix.lower() == ".txt" and os.path.isfile(path):
        try:
            text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); copy it anew") from error
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if not lines:
            raise InputError(f"{path}: an empty list; write a path on each line")
        for number, line in lines:
            if line.lower().endswith(".txt"):       # it may name itself
                raise InputError(f"{path}: names {line}; a list holds pictures, folders and videos, no lists")
            try:
                yield from _of_path(path.parent / line, fps, out)
            except InputError as error:
                raise InputError(f"{path} line {number}: {error}") from error
    else:
        is_folder = os.path.isdir(path)
        base = Path(_plain(path.resolve().name)) if is_folder else Path()
        for found in find_pictures([path]):
            if is_folder and found.resolve().is_relative_to(out):
                continue
            above = found.relative_to(path).parent.parts if is_folder else ()
            yield base.joinpath(*above, _plain(found.stem)), lambda found=found: (found, read_image(found))


def _plain(name):
    """A folder's name from a file's: never empty, never a step up (a photograph may be called `...jpg`)."""
    return name.strip(". ") or "picture"


def _of_video(path, fps):
    """One source for every frame that a rate of `fps` takes: read when its turn comes, in order, for all of
    a video's would fill the memory; so would many videos that are open at once.

    Raises: UnicodeEncodeError for a name that is not UTF-8, which OpenCV would not survive.
    """
    str(path).encode()
    video, count = cv2.VideoCapture(str(path)), 0
    while video.grab():
        count += 1
    every = max(1, round(min(count, (video.get(cv2.CAP_PROP_FPS) or 25.0) / fps)))
    if not count:
        raise InputError(f"{path}: no frame can be read from this video; convert it to .mp4")
    video.release()

    def read(number):
        """(what messages call it, the frame of this number); those up to the next one are passed over."""
        if number == 0:
            video.open(str(path))
        whole, frame = video.read()
        for _ in range(every - 1):
            video.grab()
        if number + every >= count:
            video.release()
        if not whole:
            raise InputError(f"{path}: frame {number} cannot be read; convert the video to .mp4")
        return Path(f"{path.name} frame {number}"), frame[..., ::-1].copy()

    for number in range(0, count, every):
        yield Path(_plain(path.stem)) / f"{number:06d}", functools.partial(read, number)
