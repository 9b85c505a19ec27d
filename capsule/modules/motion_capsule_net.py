"""A capsule network for the field's small motion pictures: CapsuleNet's head on one convolution."""

import torch
from torch import nn

from capsule.modules.layers import MECapsule, PrimaryCapsule

SIDE = 28                                   # pixels of the input, as STSTNet's
FILTERS, KERNEL, STRIDE = 16, 5, 2
TYPES, DIM_PRIMARY, DIM_DIGIT = 8, 8, 16    # primary capsules at each place; numbers in a capsule


class MotionCapsuleNet(nn.Module):
    """Convolution 5×5 stride 2, batch norm, ReLU, dropout → primary capsules 5×5 stride 2 → routed capsules.

    forward: motion pictures (B, 3, 28, 28) in [0, 1] → capsule lengths (B, classes), float32 in [0, 1).
    No pretrained weights exist.
    """

    pretrained = False

    def __init__(self, classes, routings=3):
        super().__init__()
        side = ((SIDE - KERNEL) // STRIDE + 1 - KERNEL) // STRIDE + 1                       # 4
        self.conv = nn.Sequential(nn.Conv2d(3, FILTERS, KERNEL, STRIDE), nn.BatchNorm2d(FILTERS), nn.ReLU(),
                                  nn.Dropout(0.5))
        self.primarycaps = PrimaryCapsule(FILTERS, TYPES * DIM_PRIMARY, DIM_PRIMARY, KERNEL, STRIDE)
        self.digitcaps = MECapsule(TYPES * side * side, DIM_PRIMARY, classes, DIM_DIGIT, routings)

    def forward(self, x):
        capsules = self.digitcaps(self.primarycaps(self.conv(x)))
        return torch.linalg.vector_norm(capsules, dim=-1)                  # (B, classes, 16) → (B, classes)
