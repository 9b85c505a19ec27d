"""Motion from onset to apex as pictures: u, v (128 where nothing moves), strain (SPEC section 10)."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from capsule.inputs.crops import FrameImages
from common.cache import digest
from common.errors import InputError
from common.images import IMAGE_SUFFIXES, read_image

LISTED = 10     # names that an error message shows


def ready_motion(clips, folder, skip_missing=False):
    """Motion pictures made elsewhere, one a clip, named `<subject>_<clip>` as people spell it.

    "sub01_EP02_01f", "006_006_1_2 ", "s02_s02_ne_01" and "2_s2_ne_1" are all understood. Pictures of no clip
    of the list are left out and said. Red is u, green v, blue strain.
    Returns: (clips, FrameImages of kind "motion", images uint8 (clips, 3, H, W)); with `skip_missing` the
    clips are those that have a picture.
    Raises: InputError for a missing folder, two pictures of one clip, clips without one, an unreadable or
    grey picture, or pictures of unequal size.
    """
    files = _by_name(Path(folder))
    names = [_plain(f"{row.subject}_{row.clip}") for row in clips.table.itertuples()]
    missing = [key for key, name in zip(clips.keys, names, strict=True) if name not in files]
    if len(missing) == len(names) or (missing and not skip_missing):
        raise InputError(f"{folder}: no motion picture of {len(missing)} of {len(names)} clips: "
                         f"{_listed(missing)}; name them <subject>_<clip>, or leave these clips out "
                         "with --skip-missing")
    extra = sorted(files[name].name for name in files.keys() - set(names))
    remarks = {"dropped: no motion picture": missing, "motion pictures of no clip of the list": extra}
    said = [{"what": what, "count": len(found), "clips": found} for what, found in remarks.items() if found]
    for note in said:
        print(f"{folder}: {note['what']}: {note['count']} ({_listed(note['clips'])})", flush=True)
    there = [name in files for name in names]
    table = clips.table[there].reset_index(drop=True)
    kept = replace(clips, table=table, notes={**clips.notes, "clips": len(table)})
    images = torch.from_numpy(_read([files[name] for name in names if name in files]))
    frames = [f"{key}/{apex}" for key, apex in zip(kept.keys, table["apex_frame"], strict=True)]
    rule = {"rule": "ready motion", "version": 1, "pictures": digest(frames, images.numpy().tobytes())}
    rows = np.arange(len(table), dtype=np.int64)
    return kept, FrameImages(kept, images, rows, np.zeros_like(rows), frames, "motion", rule, tuple(said))


def _by_name(folder):
    """{plain name: path} of the pictures in a folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of motion pictures, one a clip")
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        other = files.setdefault(_plain(path.stem), path)
        if other != path:
            raise InputError(f"{path}: of the same clip as {other.name}; remove one of them")
    return files


def _plain(name):
    """A name as words and numbers: case, separators, leading zeros and the subject's prefix do not count."""
    parts = re.findall(r"[a-z]+|\d+", name.lower())
    numbers = [part.lstrip("0") or "0" if part.isdigit() else part for part in parts]
    return " ".join(numbers[1:] if numbers and numbers[0] in ("s", "sub", "subject") else numbers)


def _read(paths):
    """The pictures as one array, uint8 (n, 3, H, W)."""
    images = []
    for path in paths:
        image = read_image(path)
        if (image == image[..., :1]).all():
            raise InputError(f"{path}: a grey picture; motion is red u, green v, blue strain")
        if images and image.shape != images[0].shape:
            raise InputError(f"{path}: {image.shape[1]}x{image.shape[0]} pixels, but {paths[0].name} has "
                             f"{images[0].shape[1]}x{images[0].shape[0]}; make all of one size")
        images.append(image)
    return np.stack(images).transpose(0, 3, 1, 2)    # (n, H, W, 3) → (n, 3, H, W)


def _listed(names):
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
