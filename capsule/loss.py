"""Losses: the margin loss of the capsule networks, cross-entropy of the baselines (SPEC section 6)."""

import torch
import torch.nn.functional as F

UPPER, LOWER, ABSENT_WEIGHT = 0.99, 0.01, 0.5


def me_loss(lengths, labels):
    """Margin loss: Σ_c [y·max(0, 0.99−p)² + 0.5·(1−y)·max(0, p−0.01)²], mean over the batch.

    lengths: capsule lengths p, float (B, classes). labels: class numbers, integer (B,), or one-hot
    (B, classes). Returns a scalar. Raises: ValueError for other shapes, an empty batch, labels outside the
    classes (on a GPU their values are not read, which would stall it).
    """
    if labels.dim() == 2 and labels.shape == lengths.shape:
        if labels.device.type == "cpu" and not bool(((labels != 0).sum(1) == 1).all()):
            raise ValueError("one-hot labels: each row must have one class")
        labels = (labels != 0).int().argmax(1)
    _check(lengths, labels)
    present = labels[:, None] == torch.arange(lengths.shape[1], device=labels.device)     # (B, classes)
    missing = (UPPER - lengths).clamp(min=0).square()
    excess = (lengths - LOWER).clamp(min=0).square()
    return torch.where(present, missing, ABSENT_WEIGHT * excess).sum(1).mean()


def cross_entropy(scores, labels):
    """Cross-entropy of `scores` (B, classes) read as logits, mean over the batch; labels: integer (B,).

    The reference baselines put softmax outputs in; so do ours unless they are asked for logits.
    Raises: as `me_loss`.
    """
    _check(scores, labels)
    return F.cross_entropy(scores, labels.long())


def _check(scores, labels):
    if scores.dim() != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(f"scores {tuple(scores.shape)}, labels {tuple(labels.shape)}: must be (B, classes) "
                         "and (B,), or one-hot (B, classes); B at least 1")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels of type {labels.dtype}: must be whole class numbers")
    if labels.device.type == "cpu":
        low, high, classes = int(labels.min()), int(labels.max()), scores.shape[1]
        if low < 0 or high >= classes:
            raise ValueError(f"labels {low} to {high}: outside the {classes} classes")
