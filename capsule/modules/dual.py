"""CapsuleNet with two streams, the apex crop and its thirteen views (SPEC section 6; the fusion is ours)."""

import torch
from torch import nn

from capsule.modules.attention import CoordAttention
from capsule.modules.backbone import Backbone
from capsule.modules.capsule_net import CapsuleHead

CHANNELS = (3, 39)    # an RGB crop; 13 views x RGB


class MECapsuleNetDual(CapsuleHead):
    """Two ResNet backbones, their maps concatenated, one capsule head.

    forward(first_stream, second_stream): the crop (B, 3, H, W) and the views (B, 39, H, W), or (B, 13, H, W)
    grey, all in [0, 1] → capsule lengths (B, classes). input_size: (H, W) of both; channels: of each; other
    options as MECapsuleNet's.
    """

    def __init__(self, classes, routings=3, is_freeze=True, pretrained=True, width=1.0,
                 input_size=(224, 224), channels=CHANNELS):
        super().__init__()
        self.first_conv = Backbone(channels[0], "resnet", is_freeze, pretrained, width)
        self.second_conv = Backbone(channels[1], "resnet", is_freeze, pretrained, width)
        self.pretrained = self.first_conv.pretrained and self.second_conv.pretrained
        self.first_attention, self.second_attention = nn.Identity(), nn.Identity()
        map_size = [self.first_conv.map_side(side) for side in input_size]
        self._build_head(2 * self.first_conv.out_channels, map_size, classes, routings, width)

    def forward(self, first_stream, second_stream):
        first = self.first_attention(self.first_conv(first_stream))
        second = self.second_attention(self.second_conv(second_stream))
        return self._lengths(torch.cat([first, second], 1))              # 2 × (B, 256, h, w) → (B, 512, h, w)


class MECapsuleNetDualCA(MECapsuleNetDual):
    """MECapsuleNetDual with coordinate attention on each stream before they are joined."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        wide = self.first_conv.out_channels
        self.first_attention = CoordAttention(wide, wide)
        self.second_attention = CoordAttention(wide, wide)
