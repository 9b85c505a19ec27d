"""The networks: CapsuleNet, its dual-stream form, and the baselines (SPEC section 6)."""

from capsule.modules.attention import CoordAttention
from capsule.modules.baseline import VGG, ResNet
from capsule.modules.capsule_net import MECapsuleNet
from capsule.modules.dual import MECapsuleNetDual, MECapsuleNetDualCA
from capsule.modules.layers import MECapsule, PrimaryCapsule, squash

__all__ = ["VGG", "CoordAttention", "MECapsule", "MECapsuleNet", "MECapsuleNetDual", "MECapsuleNetDualCA",
           "PrimaryCapsule", "ResNet", "squash"]
