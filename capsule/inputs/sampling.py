"""Which frames train and which test in a fold, and each epoch's training list (SPEC section 7)."""

import numpy as np
import torch

from common.errors import InputError

NEIGHBOURS_OF_RAREST = 4    # frames that the rarest class brings: apex −2, −1, +1, +2, all that there are


def data_split(clips, data_sub):
    """Rows of the clip table that train, and rows that test, when `data_sub` is held out: two int64 arrays.

    Raises: InputError when the table has no such subject, or no other.
    """
    held_out = clips.table["data_sub"].to_numpy() == data_sub
    if not held_out.any() or held_out.all():
        raise InputError(f"{data_sub}: {len(held_out)} clips, {held_out.sum()} of them this subject's; "
                         "leaving one subject out needs its clips and others'")
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def apex_rows(frames, clip_rows):
    """Image rows of these clips' apex frames, int64 tensor in the order of `clip_rows`.

    frames: FrameImages; its `clip` and `is_apex` are read. Raises: InputError when a clip has no apex image.
    """
    apexes = np.flatnonzero(frames.is_apex)
    row_of = np.full(max(frames.clip.max(initial=-1), np.max(clip_rows, initial=-1)) + 1, -1)
    row_of[frames.clip[apexes]] = apexes
    rows = row_of[clip_rows]
    missing = clip_rows[rows < 0]
    if len(missing):
        raise InputError(f"clip table row {missing[0]}: no apex image ({len(missing)} such clips); put the "
                         "frames in place or use --skip-missing")
    return torch.from_numpy(rows)


def neighbours_per_class(labels):
    """dict class → k ≥ 0, the mean number of neighbour frames that a clip of the class brings to an epoch.

    labels (n,): of the training clips alone. Class c of n_c clips gets k = 5·n_rarest/n_c − 1, the rarest 4,
    so that with its apex each has about 5·n_rarest images (more where n_c is above that).
    """
    classes, counts = np.unique(labels, return_counts=True)
    wanted = (NEIGHBOURS_OF_RAREST + 1) * counts.min() / counts - 1
    return {int(c): max(0.0, float(k)) for c, k in zip(classes, wanted, strict=True)}


def sample_data(clips, frames, train_rows, generator):
    """Image rows of one epoch, int64 tensor, unshuffled: every training apex, then neighbours drawn afresh.

    A clip of class c brings k_c neighbours without replacement (`neighbours_per_class`; a fraction is the
    probability of one more). Where fewer are on disk its apex takes their place, which keeps the classes
    balanced. train_rows: int64, of the clip table; no other clip's label is read.
    generator: torch.Generator on the CPU; its state moves on by the same amount whatever is drawn.
    """
    labels = clips.labels[train_rows]
    wanted = np.zeros(len(clips.table))
    per_class = neighbours_per_class(labels)
    wanted[train_rows] = [per_class[int(label)] for label in labels]
    chance = torch.rand(len(wanted), generator=generator).numpy()
    n_drawn = np.floor(wanted + chance).astype(np.int64)        # k, or one more with probability frac(k)

    order = torch.rand(len(frames.clip), generator=generator).numpy()
    neighbours = np.flatnonzero(~frames.is_apex)
    neighbours = neighbours[np.lexsort((order[neighbours], frames.clip[neighbours]))]    # by clip; random
    owner = frames.clip[neighbours]
    first = np.searchsorted(owner, owner)                       # of each neighbour: where its clip's begin
    drawn = neighbours[np.arange(len(owner)) - first < n_drawn[owner]]
    lacking = n_drawn - np.bincount(frames.clip[drawn], minlength=len(n_drawn))
    again = apex_rows(frames, np.repeat(train_rows, lacking[train_rows]))
    return torch.cat([apex_rows(frames, train_rows), torch.from_numpy(drawn), again])
