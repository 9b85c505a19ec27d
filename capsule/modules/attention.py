"""Coordinate attention (Hou, Zhou, Feng, CVPR 2021; SPEC section 6)."""

import torch
from torch import nn


class CoordAttention(nn.Module):
    """Weighs a feature map by row and by column: x · a_h · a_w, weights in (0, 1).

    forward: (B, C, H, W) → the same shape; in_channels and out_channels are both C.
    """

    def __init__(self, in_channels, out_channels, reduction=32):
        super().__init__()
        middle = max(8, in_channels // reduction)
        self.conv1 = nn.Conv2d(in_channels, middle, 1)
        self.bn1 = nn.BatchNorm2d(middle)
        self.act = nn.Hardswish()
        self.conv_h = nn.Conv2d(middle, out_channels, 1)
        self.conv_w = nn.Conv2d(middle, out_channels, 1)

    def forward(self, x):
        """(B, C, H, W) → the same shape."""
        height, width = x.shape[2:]
        rows = x.mean(3, keepdim=True)                                    # (B, C, H, 1)
        columns = x.mean(2, keepdim=True).transpose(2, 3)                 # (B, C, 1, W) → (B, C, W, 1)
        both = torch.cat([rows, columns], 2)                              # → (B, C, H+W, 1)
        both = self.act(self.bn1(self.conv1(both)))
        rows, columns = both.split([height, width], 2)
        row_weights = self.conv_h(rows).sigmoid()                         # (B, C', H, 1)
        column_weights = self.conv_w(columns.transpose(2, 3)).sigmoid()   # (B, C', 1, W)
        return x * row_weights * column_weights
