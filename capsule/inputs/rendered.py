"""Pictures rendered from a clip's crops, cached clip by clip: what views and motion share."""

import os

import numpy as np
import torch
from tqdm.contrib.concurrent import thread_map

from common.cache import digest, read_entry, write_entry

MAX_RENDERING = 4       # clips rendered at the same time: bounds the memory


def cached_pictures(crops, maker, place, rule, render, suffix, yaws):
    """Pictures of every frame of `crops`, cached in `<data_root>/<place[0]>/<maker.name>/<place[1]>/`.

    crops: FrameImages of kind "crop". maker: a `deca.reconstructor.Reconstructor`. yaws: Y angles, degrees.
    render(row of the clip table, its crops (n, 3, H, W)) → (uint8 (n, Y, H, W) or (n, Y, 3, H, W), found
    bool (n,)); called in several threads, for a whole clip at once, as a batch of another size may round
    otherwise: a resumed run gives the same bytes. suffix: of the cached files, ".jpg" or ".png".
    Returns: uint8 tensor (N, C, H, W), C = Y or 3·Y; `rule` completed with yaws and reconstructor; bool
    (clips,), whether a face was found in all frames of the clip.
    """
    keys, root = crops.clips.keys, crops.clips.data_root / place[0] / maker.name / place[1]
    rule = {**rule, "yaws": list(yaws), "reconstructor": maker.name, "model": maker.model,
            "made by": maker.rule}
    if maker.rasterizer != "torch":
        rule["rasterizer"] = maker.rasterizer

    def make(row):
        """The clip's n frames as uint8 (n, C, H, W), and whether a face was found in all of them."""
        frames = np.flatnonzero(crops.clip == row)
        own, onset = crops.images[torch.from_numpy(frames)], crops.onsets[row]
        numbers = [crops.names[i].rsplit("/", 1)[1] for i in frames]
        folder, key = root / keys[row], digest(rule, numbers, own.numpy().data, onset.numpy().data)
        names = [f"{number}/{yaw}{suffix}" for number in numbers for yaw in yaws]
        entry = read_entry(folder, key, names, ["found"])
        if entry is None:
            pictures, found = map(np.asarray, render(row, own))
            flat = [np.moveaxis(one, 0, -1) if one.ndim == 3 else one       # n·Y of (H, W) or (H, W, 3)
                    for frame in pictures for one in frame]
            info = {"found": bool(np.all(found))}
            entry = write_entry(folder, key, dict(zip(names, flat, strict=True)), info), info
        planes = np.concatenate([np.atleast_3d(entry[0][name]).transpose(2, 0, 1) for name in names])
        return planes.reshape(len(frames), -1, *planes.shape[1:]), entry[1]["found"] is True  # → (n, C, H, W)

    before = torch.get_num_threads()
    torch.set_num_threads(1)        # per rendering thread: torch's own would spin while they wait
    try:
        made = thread_map(make, range(len(keys)), max_workers=min(MAX_RENDERING, os.cpu_count() or 1),
                          desc=f"{place[0]} ({maker.name})", unit="clip", disable=None)
    finally:
        torch.set_num_threads(before)
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()    # Ray's workers are other processes
    pictures, found = zip(*made, strict=True)
    return torch.from_numpy(np.concatenate(pictures)), rule, np.array(found, bool)
