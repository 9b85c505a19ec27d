"""Motion from onset to apex as uint8 pictures: red u, green v, both 128 where nothing moves, and blue strain,
0 there (SPEC section 10)."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from capsule.data.remarks import listed, remark, said_of, say
from capsule.inputs.crops import FrameImages, with_images
from capsule.inputs.rendered import cached_pictures
from common.cache import digest
from common.errors import InputError
from common.images import IMAGE_SUFFIXES, read_image

LEVELS, STRAIN_LEVELS = 20.0, 300.0     # per pixel of u and v (range ± 6.4), per unit of strain (to .85)
ZERO = np.float32([128, 128, 0]).reshape(3, 1, 1)        # levels where nothing moves: u, v, strain
SPREAD = 32.0   # levels: standard deviation of each channel of a normalised picture
RULE = {"rule": "motion on the face", "version": 4, "levels": [LEVELS, STRAIN_LEVELS]}


def ready_motion(clips, folder, skip_missing=False, say=say):
    """Motion pictures made elsewhere, one per clip, named `<subject>_<clip>` as people spell it.

    "sub01_EP02_01f", "006_006_1_2 ", "s02_s02_ne_01" and "2_s2_ne_1" are all understood. Pictures of no clip
    of the list are left out, with a remark; say(remarks) prints these. Red is u, green v, blue strain.
    Returns: (clips, FrameImages of kind "motion", images uint8 (clips, 3, H, W)); with `skip_missing` the
    clips are those that have a picture.
    Raises: InputError for a missing folder, two pictures of one clip, one of two clips, clips without one, an
    unreadable or grey picture, or pictures of unequal size or not square.
    """
    files = _by_name(Path(folder))
    names = [_plain(f"{row.subject}_{row.clip}") for row in clips.table.itertuples()]
    for i, name in enumerate(names):
        if name in files and names.index(name) < i:
            both = f"{clips.keys[names.index(name)]} and {clips.keys[i]}"
            raise InputError(f"{files[name]}: the name fits {both}; leave one of them out of the list "
                             "(--protocol FILE)")
    missing = [key for key, name in zip(clips.keys, names, strict=True) if name not in files]
    if len(missing) == len(names) or (missing and not skip_missing):
        raise InputError(f"{folder}: no motion picture of {len(missing)} of {len(names)} clips: "
                         f"{listed(missing)}; name them <subject>_<clip>, or "
                         + ("give another folder" if len(missing) == len(names) else
                            "leave these clips out with --skip-missing"))
    extra = sorted(files[name].name for name in files.keys() - set(names))
    remarks = {"dropped: no motion picture": missing, "motion pictures of no clip of the list": extra}
    said = [one for what, found in remarks.items() for one in remark(what, found)]
    say(said)
    there = [name in files for name in names]
    table = clips.table[there].reset_index(drop=True)
    kept = replace(clips, table=table)
    images = torch.from_numpy(_read([files[name] for name in names if name in files]))
    frames = [f"{key}/{apex}" for key, apex in zip(kept.keys, table["apex_frame"], strict=True)]
    rule = {"rule": "ready motion", "version": 1, "motion": digest(frames, images.numpy().data)}
    rows = np.arange(len(table), dtype=np.int64)
    return kept, FrameImages(kept, images, rows, rows >= 0, frames, "motion", rule, tuple(said))


def _by_name(folder):
    """{plain name: path} of the pictures in a folder."""
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder; give a folder of motion pictures, one a clip; where a "
                         "run's folder has moved, run its script again with the new place")
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        other = files.setdefault(_plain(path.stem), path)
        if other != path:
            raise InputError(f"{path}: of the same clip as {other.name}; remove one of them")
    return files


def _plain(name):
    """`name` for comparison: without case, separators, leading zeros and the subject's prefix."""
    parts = re.findall(r"[a-z]+|\d+", name.lower())
    numbers = [part.lstrip("0") or "0" if part.isdigit() else part for part in parts]
    return " ".join(numbers[1:] if numbers and numbers[0] in ("s", "sub", "subject") else numbers)


def _read(paths):
    """The pictures as one array, uint8 (n, 3, H, W)."""
    images = []
    for path in paths:
        image = read_motion(path)
        if images and image.shape != images[0].shape:
            raise InputError(f"{path}: {image.shape[2]}x{image.shape[1]} pixels, but {paths[0].name} has "
                             f"{images[0].shape[2]}x{images[0].shape[1]}; make all of one size")
        images.append(image)
    return np.stack(images)


def read_motion(path):
    """A ready motion picture, uint8 (3, S, S). Raises: InputError for an unreadable or grey picture, and for
    one that is not square."""
    image = read_image(path)
    if image.shape[0] != image.shape[1]:
        raise InputError(f"{path}: {image.shape[1]}x{image.shape[0]} pixels; motion pictures are square, "
                         "and photographs are none")
    if (image == image[..., :1]).all():
        raise InputError(f"{path}: a grey picture; motion is red u, green v, blue strain")
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def face_motion(crops, reconstructor="auto", yaws=(0,), device="auto", rasterizer="auto"):
    """Motion on the 3-D face from each clip's onset to each of its frames (SPEC section 10).

    crops: `capsule.inputs.face_crops`. yaws: Y angles in degrees; (0,) gives the frontal map alone. Cached
    under `<data_root>/motion/<reconstructor>/`. A clip whose onset is not on disk or is its apex, or where no
    face is found, shows no motion, with a remark.
    Returns: FrameImages of kind "motion", images uint8 (N, 3·Y, 224, 224): u, v, strain (see `as_levels`).
    Raises: InputError for an unwritable cache or unusable model files, and when no clip has any motion.
    """
    from deca import make_reconstructor  # here: ready pictures need no 3-D face

    table = crops.clips.table
    moves = crops.has_onset & (table["onset_frame"] != table["apex_frame"]).to_numpy()
    if not moves.any():
        raise InputError(f"no clip of {crops.clips.dataset} has an onset frame, other than its apex, under "
                         f"{crops.clips.data_root}: there is no motion to see; lay the onset frames there")
    maker = make_reconstructor(reconstructor, device, rasterizer)

    def make(row, own):
        if not crops.has_onset[row]:
            return as_levels(np.zeros((len(own), len(yaws), 3, *own.shape[2:]))), [True]
        motion, found = maker.motion(crops.onsets[row], own, yaws)
        return as_levels(motion), found

    place = "motion", "frontal" if len(yaws) == 1 else "views"
    images, rule, found = cached_pictures(crops, maker, place, RULE, make, ".png", yaws)
    said = said_of(crops.clips, {
        "onset not on disk: no motion": ~crops.has_onset,
        "the onset is the apex: no motion": (table["onset_frame"] == table["apex_frame"]).to_numpy(),
        "the onset comes after the apex": (table["onset_frame"] > table["apex_frame"]).to_numpy(),
        "no face for the motion, nothing moves there": ~found})
    return with_images(crops, images, "motion", rule, said)


def as_levels(motion):
    """float (..., 3, H, W) u, v in pixels, strain → uint8: 128 + LEVELS·(u, v), STRAIN_LEVELS·strain."""
    scale = np.array([LEVELS, LEVELS, STRAIN_LEVELS]).reshape(3, 1, 1)
    return np.clip(np.rint(np.asarray(motion) * scale + ZERO), 0, 255).astype(np.uint8)


def normalised(motion):
    """`motion`, FrameImages of that kind, after `normalised_levels`; its rule says so."""
    rule = {**motion.rule, "normalised": {"version": 1, "spread": SPREAD}}
    return replace(motion, images=normalised_levels(motion.images), rule=rule)


def normalised_levels(images):
    """Motion pictures, each on its own scale: the median of u and of v (how the head shifted) is taken away,
    then each channel is scaled to standard deviation SPREAD. No other picture and no label is looked at.

    images: uint8 tensor (N, 3·Y, H, W). Returns: the same type and shape; u and v about 128, strain from 0.
    """
    stack = images.contiguous().numpy().astype(np.float32)     # a sum's rounding depends on the layout
    stack = stack.reshape(len(stack), -1, 3, *stack.shape[2:])                      # (N, yaws, 3, H, W)
    stack[:, :, :2] -= np.median(stack[:, :, :2], axis=(3, 4), keepdims=True)       # (N, yaws, 2, 1, 1)
    stack *= SPREAD / np.maximum(stack.std((3, 4), keepdims=True), 1)
    stack += ZERO
    return torch.from_numpy(stack.round(out=stack).clip(0, 255, stack).astype(np.uint8).reshape(images.shape))
