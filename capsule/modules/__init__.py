"""The networks: CapsuleNet, its dual-stream form, STSTNet and the baselines (SPEC section 6)."""

from capsule.modules.attention import CoordAttention
from capsule.modules.baseline import VGG, ResNet
from capsule.modules.capsule_net import MECapsuleNet
from capsule.modules.dual import MECapsuleNetDual, MECapsuleNetDualCA
from capsule.modules.layers import MECapsule, PrimaryCapsule, squash
from capsule.modules.registry import Network, network

__all__ = ["VGG", "CoordAttention", "MECapsule", "MECapsuleNet", "MECapsuleNetDual", "MECapsuleNetDualCA",
           "Network", "PrimaryCapsule", "ResNet", "network", "squash"]
