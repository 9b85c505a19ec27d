"""The one registry of networks: scripts, Grad-CAM, prediction and benchmarks all build theirs here.

To add a network: a file in this folder, a line in NETWORKS.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from capsule.data.remarks import remark
from capsule.loss import me_loss
from capsule.modules import motion_capsule_net, ststnet
from capsule.modules.backbone import freeze, start_from
from capsule.modules.baseline import VGG, ResNet
from capsule.modules.capsule_net import MECapsuleNet
from capsule.modules.dual import MECapsuleNetDual, MECapsuleNetDualCA
from capsule.modules.motion_capsule_net import MotionCapsuleNet
from capsule.modules.ststnet import STSTNet
from capsule.modules.svm import SVM
from common.cache import file_digest
from common.errors import InputError
from common.tensors import load_tensors

FULL_SIDE, QUICK_SIDE = 224, 152          # pixels of the input; 152 leaves 2×2 primary capsules
FULL_WIDTH, QUICK_WIDTH = 1.0, 0.25       # share of the channels
IMAGENET, NONE = "ImageNet", "none"       # what training starts from, in result files


@dataclass(frozen=True)
class _Kind:
    """How one network of the registry is built and trained."""

    build: Callable             # (channels of each stream, classes, side, **options) → nn.Module, or an SVM
    streams: int = 1            # how many its forward takes
    loss: Callable | None = me_loss    # None: fitted once, without epochs
    side: int = 0               # pixels, where its input has one size alone; 0: any
    logits: bool = False        # whether it outputs logits, not scores in [0, 1]


def _capsules(name):
    return lambda channels, classes, side, **options: MECapsuleNet((*channels, side, side), classes,
                                                                   conv_name=name, **options)


def _dual(kind):
    return lambda channels, classes, side, **options: kind(classes, input_size=(side, side),
                                                           channels=channels, **options)


def _baseline(kind):       # always one RGB picture, of any size
    return lambda channels, classes, side, **options: kind(classes, **options)


def _small(kind):       # of one size and width, never frozen, never pretrained: no options
    return lambda channels, classes, side, **options: kind(classes)


NETWORKS = {
    "MECapsuleNet": _Kind(_capsules("resnet")),
    "resnet": _Kind(_capsules("resnet")),              # the 2-D script's names: MECapsuleNet on this backbone
    "vgg": _Kind(_capsules("vgg")),
    "MECapsuleNetDual": _Kind(_dual(MECapsuleNetDual), streams=2),
    "MECapsuleNetDualCA": _Kind(_dual(MECapsuleNetDualCA), streams=2),
    "ResNet": _Kind(_baseline(ResNet), loss=cross_entropy),     # of probabilities, as the reference's
    "VGG": _Kind(_baseline(VGG), loss=cross_entropy),
    "STSTNet": _Kind(_small(STSTNet), loss=cross_entropy, side=ststnet.SIDE, logits=True),
    "MotionCapsuleNet": _Kind(_small(MotionCapsuleNet), side=motion_capsule_net.SIDE),
    "SVM": _Kind(_small(SVM), loss=None, side=ststnet.SIDE),
    "ActionUnitSVM": _Kind(_small(SVM), loss=None, side=ststnet.SIDE),    # of clips with action_units
}


@dataclass(frozen=True)
class Network:
    """A network of the registry as an experiment trains it; `name`: a key of NETWORKS.

    freeze: do not train the backbone's first layers, where they hold pretrained weights. logits: a baseline
    outputs logits instead of probabilities. quick: a quarter of the channels, 152-pixel input. pretrained:
    start from ImageNet weights where they can be had (never with quick). weights: file of a state dict to
    start from, matched by name and shape; read once, into `tensors`; `origin` is its name and digest.
    joined: give the network all streams as one, their channels concatenated.
    Raises: InputError for an unknown name or an unreadable weights file.
    """

    name: str
    classes: int
    freeze: bool = False
    logits: bool = False
    quick: bool = False
    pretrained: bool = True
    weights: str = ""
    joined: bool = False
    origin: str = field(default="", init=False)
    tensors: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        if self.name not in NETWORKS:
            raise InputError(f"network {self.name!r}: no such network; choose from {', '.join(NETWORKS)}")
        if self.weights:
            object.__setattr__(self, "tensors", load_tensors(self.weights))
            object.__setattr__(self, "origin", f"{Path(self.weights).name} {file_digest(self.weights)}")

    @property
    def side(self):
        """Side of the square input, pixels."""
        return NETWORKS[self.name].side or (QUICK_SIDE if self.quick else FULL_SIDE)

    @property
    def is_small(self):
        """Whether it is one of the 28-pixel networks: they gain nothing from bf16 or a second thread."""
        return NETWORKS[self.name].side > 0

    @property
    def loss(self):
        """loss(outputs (B, classes), labels (B,)) → scalar; None for an SVM, which has no epochs."""
        return NETWORKS[self.name].loss

    @property
    def measure(self):
        """What its `scores` are, for people; capsule lengths do not sum to 1."""
        return "capsule lengths" if self.loss is me_loss else "shares of 1"

    def prepared(self, inputs):
        """The arguments of the network, from pictures (B, C, H, W) in [0, 1], a float tensor per stream."""
        if self.joined:    # a grey view as R = G = B, so that all channels come in threes
            inputs = [torch.cat([x.repeat_interleave(3, 1) if x.shape[1] % 3 else x for x in inputs], 1)]
        if self.name == "STSTNet":    # u, v, strain in [0, 1] → its own order: strain, v, u, 0 to 255
            return [255 * x.flip(1) for x in inputs]
        return [images.contiguous(memory_format=torch.channels_last) for images in inputs]

    def scores(self, outputs):
        """The network's outputs (B, classes) as scores in [0, 1]: capsule lengths or probabilities."""
        return outputs.softmax(1) if self.logits or NETWORKS[self.name].logits else outputs

    @property
    def asked(self):
        """What the training was told to start from: "ImageNet", "none", or a file's name and digest."""
        if self.origin:
            return self.origin
        return IMAGENET if self.pretrained and not (self.quick or self.is_small) else NONE

    def make(self, channels=(3,)):
        """(a new nn.Module for streams of these channels, or SVM; what it starts from, as text).

        Raises: InputError for a number of streams that the network does not take, or when no tensor of
        `weights` fits it.
        """
        kind = NETWORKS[self.name]
        channels = (sum(channels),) if self.joined else channels
        if len(channels) != kind.streams:
            raise InputError(f"network {self.name}: takes {kind.streams} stream(s) of pictures, "
                             f"not {len(channels)}")
        options = {"logits": self.logits} if self.logits else {}
        model = kind.build(tuple(channels), self.classes, self.side,
                           is_freeze=self.freeze and not self.weights,
                           pretrained=self.pretrained and not self.quick and not self.weights,
                           width=QUICK_WIDTH if self.quick else FULL_WIDTH, **options)
        if not self.weights:
            return model, IMAGENET if model.pretrained else NONE
        matched = start_from(model, self.tensors)
        if not any(self.tensors[name].dim() for name in matched):       # a counter of batch norm fits all
            raise InputError(f"--weights {self.weights}: none of its tensors has a name and shape of "
                             f"{self.name}{', as --quick makes it' * self.quick}")
        for place, part in model.named_modules() if self.freeze else ():
            prefix = f"{place}." if place else ""
            freeze(part, [name for name in getattr(part, "first_layers", ())
                          if all(f"{prefix}{name}.{key}" in matched or key.endswith("num_batches_tracked")
                                 for key in part.get_submodule(name).state_dict())])
        return model, f"{self.asked}, {len(matched)} of {len(model.state_dict())} tensors"

    def remarks(self, model):
        """Remarks (capsule.data.remarks) on tensors that only one of `model` and the --weights file has."""
        if not self.weights:
            return []
        extra, lacking = unmatched(model, self.tensors)
        name = Path(self.weights).name
        return [*remark(f"tensors of the network that {name} lacks, by name and shape", lacking),
                *remark(f"tensors of {name} that the network lacks, by name and shape", extra)]


network = Network    # lower case in the scripts, where it reads as a function


def unmatched(model, tensors):
    """(names that `model` lacks, names that `tensors` lack), sorted; another shape counts as lacking."""
    own = {name: value.shape for name, value in model.state_dict().items()}
    given = {name: getattr(value, "shape", None) for name, value in tensors.items()}
    return (sorted(name for name, shape in given.items() if own.get(name) != shape),
            sorted(name for name, shape in own.items() if given.get(name) != shape))
