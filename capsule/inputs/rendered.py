"""Pictures made of a clip's crops, clip by clip, kept on disk: what views and motion share."""

import os

import numpy as np
import torch
from tqdm.contrib.concurrent import thread_map

from common.cache import digest, read_entry, write_entry

MAX_RENDERING = 4       # clips rendered together: bounds the memory


def cached_pictures(crops, maker, place, rule, render, suffix, yaws):
    """uint8 tensor (N, C, H, W) of every frame of `crops`, clip by clip from the cache or by `render`.

    maker: `deca.make_reconstructor`'s. place: (what they are, a word for which), of the cache's folder.
    render(row of the clip table, its crops (n, 3, H, W)) → (uint8 (n, Y, H, W) or (n, Y, 3, H, W), found bool
    (n,)); it runs in several threads. A clip is one batch and one cache entry: a resumed run gives the same
    bytes.
    Returns: the tensor, C = Y or 3·Y; `rule` with the yaws and what `maker` is; and bool (clips,): was a face
    found in all its frames?
    """
    keys, root = crops.clips.keys, crops.clips.data_root / place[0] / maker.name / place[1]
    rule = {**rule, "yaws": list(yaws), "reconstructor": maker.name, "model": maker.model,
            "made by": maker.rule}

    def make(row):
        """(uint8 (n, C, H, W) of the clip's n frames, was a face found in all of them?)."""
        frames = np.flatnonzero(crops.clip == row)
        own, onset = crops.images[torch.from_numpy(frames)], crops.onsets[row]
        numbers = [crops.names[i].rsplit("/", 1)[1] for i in frames]
        folder, key = root / keys[row], digest(rule, numbers, own.numpy().data, onset.numpy().data)
        names = [f"{number}/{yaw}{suffix}" for number in numbers for yaw in yaws]
        entry = read_entry(folder, key)
        if entry is None:
            pictures, found = map(np.asarray, render(row, own))
            flat = pictures.reshape(-1, *pictures.shape[2:])                        # (n·Y, [3,] H, W)
            flat = flat.transpose(0, 2, 3, 1) if flat.ndim == 4 else flat             # → (n·Y, H, W[, 3])
            info = {"found": bool(np.all(found))}
            entry = write_entry(folder, key, dict(zip(names, flat, strict=True)), info), info
        stack = np.stack([entry[0][name] for name in names])                        # (n·Y, H, W[, 3])
        stack = stack.transpose(0, 3, 1, 2) if stack.ndim == 4 else stack[:, None]    # → (n·Y, 1 or 3, H, W)
        return stack.reshape(len(frames), -1, *stack.shape[2:]), entry[1]["found"]         # → (n, C, H, W)

    before = torch.get_num_threads()
    torch.set_num_threads(1)        # in each of ours: torch's wait for each other busily
    try:
        made = thread_map(make, range(len(keys)), max_workers=min(MAX_RENDERING, os.cpu_count() or 1),
                          desc=f"{place[0]} ({maker.name})", unit="clip", disable=None)
    finally:
        torch.set_num_threads(before)
    pictures, found = zip(*made, strict=True)
    return torch.from_numpy(np.concatenate(pictures)), rule, np.array(found, bool)
