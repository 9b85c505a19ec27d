"""Pictures made of a clip's crops, clip by clip, kept on disk: what views and motion share."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.contrib.concurrent import thread_map

from capsule.data.remarks import remark
from common.cache import digest, read_entry, write_entry

MAX_RENDERING = 4       # clips rendered together: bounds the memory


@dataclass(frozen=True)
class ClipFrames:
    """One clip's share of a FrameImages: its key, where its frames stand in it, and their numbers."""

    row: int            # in the clip table
    clip: str           # "<data>/<subject>/<clip>"
    frames: np.ndarray
    numbers: tuple      # frame numbers, as text


def clip_frames(crops):
    """The clips of `crops` as a list of ClipFrames."""
    parts = []
    for row in dict.fromkeys(crops.clip.tolist()):
        frames = np.flatnonzero(crops.clip == row)
        clip = crops.names[frames[0]].rsplit("/", 1)[0]
        parts.append(ClipFrames(row, clip, frames, tuple(crops.names[i].rsplit("/", 1)[1] for i in frames)))
    return parts


def pictures_of(crops, part):
    """uint8 tensor (n, 3, 224, 224) of one clip."""
    return crops.images[torch.from_numpy(part.frames)]


def not_found(found, what, instead):
    """The remark on clips without a face, for `said`. found: {clip key: bool}."""
    return remark(f"no face for the {what}, {instead}", [clip for clip, face in found.items() if not face])


def cached_pictures(crops, root, rule, render, suffix, yaws, title):
    """uint8 tensor (N, C, H, W) of every frame of `crops`, clip by clip from the cache or by `render`.

    render(ClipFrames) → (uint8 (n, Y, H, W) or (n, Y, 3, H, W), found bool (n,)); it runs in several threads.
    A clip is one batch and one cache entry: a resumed run gives the same bytes.
    Returns: the tensor, C = Y or 3·Y, and {clip key: was a face found in all its frames}.
    """
    parts = clip_frames(crops)
    workers = min(MAX_RENDERING, os.cpu_count() or 1)

    def make(part):
        """(uint8 (n, C, H, W) of the clip's n frames, was a face found in all of them?)."""
        folder, key = root / part.clip, digest(rule, list(part.numbers), _content(crops, part))
        names = [f"{number}/{yaw}{suffix}" for number in part.numbers for yaw in yaws]
        entry = read_entry(folder, key)
        if entry is None:
            pictures, found = map(np.asarray, render(part))
            flat = pictures.reshape(-1, *pictures.shape[2:])                        # (n·Y, [3,] H, W)
            flat = flat.transpose(0, 2, 3, 1) if flat.ndim == 4 else flat             # → (n·Y, H, W[, 3])
            info = {"found": bool(np.all(found))}
            entry = write_entry(folder, key, dict(zip(names, flat, strict=True)), info), info
        stack = np.stack([entry[0][name] for name in names])                        # (n·Y, H, W[, 3])
        stack = stack.transpose(0, 3, 1, 2) if stack.ndim == 4 else stack[:, None]    # → (n·Y, 1 or 3, H, W)
        return stack.reshape(len(part.numbers), -1, *stack.shape[2:]), entry[1]["found"]   # → (n, C, H, W)

    before = torch.get_num_threads()
    torch.set_num_threads(1)        # in each of ours: torch's wait for each other busily
    try:
        made = thread_map(make, parts, max_workers=workers, desc=title, unit="clip", disable=None)
    finally:
        torch.set_num_threads(before)
    images = np.empty((len(crops), *made[0][0].shape[1:]), np.uint8)
    for part, (pictures, _) in zip(parts, made, strict=True):
        images[part.frames] = pictures
    return torch.from_numpy(images), {part.clip: found for part, (_, found) in zip(parts, made, strict=True)}


def _content(crops, part):
    """The bytes that a clip's pictures are made from: its crops, and its onset's."""
    onset = b"" if crops.onsets is None else crops.onsets[part.row].numpy().tobytes()
    return crops.images[part.frames].numpy().tobytes() + onset
