"""Several finished experiments on one clip list: averaged clip by clip into one more, or compared."""

import math
from dataclasses import replace

import numpy as np

from capsule.metrics import paired_uf1
from capsule.results import KEY, differences, predictions
from common.errors import InputError


def fuse(runs):
    """The Run that averages the strict last-epoch lengths of `runs` clip by clip; its class is the largest.

    What the networks give is made comparable first (see `shares`); each run weighs the same. The Run has no
    folder, no losses and no `paper` evaluation, which would choose an epoch on the test subject.
    Raises: InputError for fewer than two runs, one that is not complete, or differing clip lists.
    """
    check_alike(runs, "--fuse")
    first, name = runs[0], fused_name([run.name for run in runs])
    seeds = "+".join(dict.fromkeys(str(run.facts["seed"]) for run in runs))
    facts = {**first.facts, "experiment": name, "seed": seeds,
             "quick": any(run.facts["quick"] for run in runs)}
    given = [_by_clip(run) for run in runs]
    finished = {data_sub: _fold(first.finished[data_sub], given) for data_sub in first.folds}
    remarks, notes = (tuple(dict.fromkeys(one for run in runs for one in getattr(run, of)))
                      for of in ("remarks", "notes"))
    if differing := differences([fold for run in runs for fold in run.finished.values()]):
        notes = (*notes, f"{name}: made with differing {', '.join(differing)} (said in its runs' folds)")
    return replace(first, name=name, folder=None, facts=facts, finished=finished, failed={}, notes=notes,
                   family=f"fused {name}", remarks=remarks)


def compare(runs):
    """A line: how far the strict UF1 of the first run lies above the second's, or the mean of all others',
    with the paired interval over subjects (`capsule.metrics.paired_uf1`). Raises: as `fuse`."""
    check_alike(runs, "--compare")
    first, *others = (predictions(run, "strict").set_index(KEY) for run in runs)
    gain, low, high = paired_uf1(first["y_true"], first["y_pred"],
                                 [other["y_pred"].reindex(first.index) for other in others],
                                 first["data_sub"], runs[0].classes)
    names = [run.name for run in runs[1:]]
    return (f"{runs[0].name} over {fused_name(names)}{' (mean)' * (len(names) > 1)}: strict UF1 {gain:+.3f} "
            f"[{low:+.3f}, {high:+.3f}], paired over subjects")


def check_alike(runs, option):
    """Raises: InputError for fewer than two runs, one that is not complete, or differing clip lists."""
    name = " ".join(run.name for run in runs)
    if len(runs) < 2:
        raise InputError(f"{option} {name}: name at least two different experiments")
    for run in runs:
        if run.missing:
            raise InputError(f"{option} {name}: {len(run.missing)} of {len(run.folds)} folds of {run.name} "
                             "are missing; run its script again to finish it")
        if run.clip_list != runs[0].clip_list:
            raise InputError(f"{option} {name}: {runs[0].name} ({len(runs[0].clips)} clips) and {run.name} "
                             f"({len(run.clips)}) have differing clip lists or labels; name runs of the same "
                             "--dataset, --classes, --protocol and --subset")


def fused_name(names):
    """A and B give "A+B"; x-seed9 and x-seed10, every way through "x-seed9+seed10", that."""
    tokens = [name.split("-") for name in names]
    if len({len(parts) for parts in tokens}) > 1:
        return "+".join(names)
    places = [list(dict.fromkeys(parts)) for parts in zip(*tokens, strict=True)]
    if math.prod(map(len, places)) != len(set(names)):
        return "+".join(names)
    return "-".join(map("+".join, places))


def shares(lengths):
    """Network outputs (n, C) as shares of 1 in each row: capsule lengths and probabilities divided by their
    sum, logits (outputs below 0, of older runs) by softmax. A row of zeros: equal shares."""
    if (lengths < 0).any():
        lengths = np.exp(lengths - lengths.max(1, keepdims=True))
    total = lengths.sum(1, keepdims=True)
    return np.where(total > 0, lengths / np.where(total > 0, total, 1), 1 / lengths.shape[1])


def _by_clip(run):
    """The shares (C,) of each clip (data, subject, clip) of a complete run."""
    folds = run.finished.values()
    keys = [key for fold in folds for key in fold.clips]
    return dict(zip(keys, shares(np.concatenate([fold.lengths for fold in folds])), strict=True))


def _fold(fold, given):
    """`fold` with the mean of what several runs gave for its clips (list of `_by_clip`)."""
    lengths = np.mean([[shares_of[key] for key in fold.clips] for shares_of in given], axis=0)    # (n, C)
    return replace(fold, predictions={"strict": lengths.argmax(1)[None]}, loss=np.zeros(0), lengths=lengths)
