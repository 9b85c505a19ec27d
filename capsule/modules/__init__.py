"""The networks: CapsuleNet, its dual-stream form, STSTNet and the baselines (SPEC section 6)."""

from capsule.modules.attention import CoordAttention
from capsule.modules.baseline import VGG, ResNet
from capsule.modules.capsule_net import MECapsuleNet
from capsule.modules.dual import MECapsuleNetDual, MECapsuleNetDualCA
from capsule.modules.layers import MECapsule, PrimaryCapsule, squash
from capsule.modules.motion_capsule_net import MotionCapsuleNet
from capsule.modules.registry import Network, network
from capsule.modules.ststnet import STSTNet
from capsule.modules.svm import SVM

__all__ = ["SVM", "VGG", "CoordAttention", "MECapsule", "MECapsuleNet", "MECapsuleNetDual",
           "MECapsuleNetDualCA", "MotionCapsuleNet", "Network", "PrimaryCapsule", "ResNet", "STSTNet",
           "network", "squash"]
