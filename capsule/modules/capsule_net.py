"""CapsuleNet for micro-expressions (Van Quang, Chun, Tokuyama, FG 2019; SPEC section 6)."""

import torch
import torch.nn.functional as F
from torch import nn

from capsule.modules.backbone import Backbone, scaled
from capsule.modules.layers import MECapsule, PrimaryCapsule
from common.errors import InputError

KERNEL, STRIDE, DIM_PRIMARY, DIM_DIGIT = 9, 2, 8, 16
FULL_PRIMARY = 1152    # primary capsules of the full network on 224 pixels


class CapsuleHead(nn.Module):
    """Backbone features → capsule lengths; the part that the single and the dual network share.

    conv1 9×9 + ReLU → primary capsules 9×9 stride 2 → routed capsules → lengths.
    """

    def _build_head(self, in_channels, map_size, classes, routings, width):
        """Make conv1, primarycaps and digitcaps for a feature map (in_channels, *map_size)."""
        if classes < 2:
            raise InputError(f"{classes} class(es): a network needs at least two")
        rows, columns = ((side - 2 * (KERNEL - 1) - 1) // STRIDE + 1 for side in map_size)
        if min(rows, columns) < 1:
            raise InputError("input too small: it leaves no primary capsule; use at least 136x136 pixels")
        channels = scaled(256, width)
        self.conv1 = nn.Conv2d(in_channels, channels, KERNEL)
        self.primarycaps = PrimaryCapsule(channels, channels, DIM_PRIMARY, KERNEL, STRIDE)
        n_primary = rows * columns * channels // DIM_PRIMARY
        self.digitcaps = MECapsule(n_primary, DIM_PRIMARY, classes, DIM_DIGIT, routings)
        if width < 1:    # fewer capsules are summed: larger weights give the full network's initial lengths
            with torch.no_grad():
                self.digitcaps.weight.mul_((FULL_PRIMARY / n_primary) ** 0.5)

    def _lengths(self, features):
        """(B, C, h, w) → (B, classes), float32 in [0, 1)."""
        capsules = self.digitcaps(self.primarycaps(F.relu(self.conv1(features), inplace=True)))
        return torch.linalg.vector_norm(capsules, dim=-1)                  # (B, classes, 16) → (B, classes)


class MECapsuleNet(CapsuleHead):
    """One stream: picture(s) → backbone → capsules.

    input_size: (C, H, W), C a multiple of 3. conv_name: "resnet" or "vgg". is_freeze: keep the backbone's
    first layers as they are where they are pretrained (never an inflated first convolution). pretrained:
    start from ImageNet weights where they can be had; the attribute `pretrained` says whether they were.
    width: share of the channels (1: the paper's network).
    forward: (B, C, H, W), or (B, C/3, H, W) for grey pictures, in [0, 1] → capsule lengths (B, classes).
    Raises: InputError when the input leaves no primary capsule or the channels are no multiple of 3.
    """

    def __init__(self, input_size, classes, routings=3, conv_name="resnet", is_freeze=True,
                 pretrained=True, width=1.0):
        super().__init__()
        channels, *sides = input_size
        self.conv = Backbone(channels, conv_name, is_freeze, pretrained, width)
        self.pretrained = self.conv.pretrained
        map_size = [self.conv.map_side(side) for side in sides]
        self._build_head(self.conv.out_channels, map_size, classes, routings, width)

    def forward(self, x):
        return self._lengths(self.conv(x))
