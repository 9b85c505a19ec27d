"""The margin loss of the capsule networks (SPEC section 6)."""

import torch

UPPER, LOWER, ABSENT_WEIGHT = 0.99, 0.01, 0.5


def me_loss(outputs, labels):
    """Margin loss: Σ_c [y·max(0, 0.99−p)² + 0.5·(1−y)·max(0, p−0.01)²], mean over the batch.

    outputs: capsule lengths p, float (B, classes). labels: class numbers, integer (B,), or one-hot
    (B, classes). Returns a scalar. Raises: ValueError for other shapes, an empty batch, labels outside the
    classes (on a GPU their values are not read, which would stall it).
    """
    on_cpu = labels.device.type == "cpu"
    if labels.dim() == 2 and labels.shape == outputs.shape:
        if on_cpu and not bool(((labels != 0).sum(1) == 1).all()):
            raise ValueError("one-hot labels: each row must have one class")
        labels = (labels != 0).int().argmax(1)
    if outputs.dim() != 2 or labels.shape != outputs.shape[:1] or not len(labels):
        raise ValueError(f"outputs {tuple(outputs.shape)}, labels {tuple(labels.shape)}: must be "
                         "(B, classes) and (B,), or one-hot (B, classes); B at least 1")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels of type {labels.dtype}: must be whole class numbers")
    if on_cpu and not 0 <= int(labels.min()) <= int(labels.max()) < outputs.shape[1]:
        raise ValueError(f"labels {int(labels.min())} to {int(labels.max())}: outside the "
                         f"{outputs.shape[1]} classes")
    present = labels[:, None] == torch.arange(outputs.shape[1], device=labels.device)     # (B, classes)
    missing = (UPPER - outputs).clamp(min=0).square()
    excess = (outputs - LOWER).clamp(min=0).square()
    return torch.where(present, missing, ABSENT_WEIGHT * excess).sum(1).mean()
