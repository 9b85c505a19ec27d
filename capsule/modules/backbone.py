"""Backbones: the first layers of ResNet-18 and VGG-11; ImageNet weights, inflation, freezing."""

import functools
import logging
import pickle
import socket
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import ResNet18_Weights, VGG11_Weights
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import cfgs, make_layers

from common.errors import InputError

IMAGENET = {"resnet": ResNet18_Weights.IMAGENET1K_V1, "vgg": VGG11_Weights.IMAGENET1K_V1}
VGG11_PLAN = cfgs["A"]    # channels; M: max-pool
FROZEN = {"resnet": ("conv1", "bn1", "layer1"), "vgg": ("0", "1", "2", "3")}     # module names under `model`
DOWNLOAD_TIMEOUT = 20    # seconds without an answer, then training starts from random weights


def scaled(channels, width):
    """`channels` times `width`, rounded to a multiple of 16, at least 16.

    Of 8 would do for the capsules' 8 numbers, but torch 2.12's channels-last 1×1 convolution of 8 channels,
    stride 2, writes past its memory in the backward pass on CPUs with AVX-512.
    """
    return max(16, 16 * round(channels * width / 16))


def resnet_layers(width=1.0, stages=3):
    """OrderedDict of ResNet-18's layers by torchvision's names: conv1, bn1, relu, layer1 … layer`stages`.

    No max-pool. Stage i has 64·2^(i−1)·width channels. Random weights (He et al., ICCV 2015).
    """
    channels = scaled(64, width)
    layers = OrderedDict(conv1=nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
                         bn1=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True))
    for stage in range(1, stages + 1):
        wider = scaled(64 * 2 ** (stage - 1), width)
        layers[f"layer{stage}"] = _stage(channels, wider, stride=1 if stage == 1 else 2)
        channels = wider
    for layer in layers.values():
        initialise(layer)
    return layers


def _stage(channels, wider, stride):
    shortcut = None
    if stride != 1 or channels != wider:
        projection = nn.Conv2d(channels, wider, 1, stride=stride, bias=False)
        shortcut = nn.Sequential(projection, nn.BatchNorm2d(wider))
    return nn.Sequential(BasicBlock(channels, wider, stride, shortcut), BasicBlock(wider, wider))


def vgg_layers(width=1.0, plan=VGG11_PLAN):
    """Sequential of VGG-11's features: convolutions of `plan`'s channels · width, ReLUs, max-pools."""
    layers = make_layers([step if step == "M" else scaled(step, width) for step in plan])
    initialise(layers)
    return layers


def initialise(module):
    """Give the convolutions in `module` He-normal weights (fan out) and zero biases, as torchvision does."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@functools.lru_cache(maxsize=1)
def imagenet_weights(name):
    """torchvision's ImageNet state dict of ResNet-18 ("resnet") or VGG-11 ("vgg"); None if not to be had.

    Cached: it is asked for, and a failure logged, once per process.
    """
    weights, before = IMAGENET[name], socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        logging.getLogger(__name__).warning(
            "ImageNet weights cannot be had (%s): training starts from random weights; "
            "to use them, put %s into %s/checkpoints",
            " ".join(str(error).split()), weights.url.rsplit("/", 1)[-1], torch.hub.get_dir())
        return None
    finally:
        socket.setdefaulttimeout(before)


def load_imagenet(model, name, prefix=""):
    """Copy ImageNet weights into `model`; torchvision's names are ours with `prefix` before them.

    Layers that only torchvision's network has, or whose shape differs (a new last layer), are left out.
    Returns: whether weights were loaded.
    """
    weights = imagenet_weights(name) or {}
    return bool(start_from(model, {key.removeprefix(prefix): value for key, value in weights.items()
                                   if key.startswith(prefix)}))


def start_from(model, tensors):
    """Copy into `model` the tensors whose name and shape it has. Returns: the set of their names."""
    own = model.state_dict()
    matched = {name: value for name, value in tensors.items()
               if name in own and isinstance(value, torch.Tensor) and value.shape == own[name].shape}
    model.load_state_dict({**own, **matched})
    return set(matched)


def inflated(conv, channels):
    """A copy of `conv` (3 input channels) for `channels`, a multiple of 3: the kernel repeated for each group
    of 3 and divided by the number of groups.

    On a stack of equal pictures it computes what `conv` computes on one (Carreira and Zisserman, CVPR 2017).
    """
    groups = channels // 3
    wide = nn.Conv2d(channels, conv.out_channels, conv.kernel_size, stride=conv.stride, padding=conv.padding,
                     bias=conv.bias is not None)
    state = dict(conv.state_dict(), weight=conv.weight.detach().repeat(1, groups, 1, 1) / groups)
    wide.load_state_dict(state)    # (out, 3, k, k) → (out, 3·groups, k, k)
    return wide


class Backbone(nn.Module):
    """The layers of ResNet-18 to layer3, without max-pool, or of VGG-11 to its third pool.

    in_channels: a multiple of 3. name: "resnet" or "vgg". is_freeze: keep the first layers as they are,
    if they are pretrained: random ones are always trained. width: share of the channels (1: 256 come out).
    Attributes: `model` (the layers), `out_channels`, `pretrained` (whether ImageNet weights were loaded).
    forward: (B, in_channels, H, W) → (B, out_channels, H/8, W/8). A stack of grey pictures may also come as
    (B, in_channels/3, H, W): the result is that of each picture repeated as R=G=B, at a third of the work.
    """

    def __init__(self, in_channels, name="resnet", is_freeze=False, pretrained=True, width=1.0):
        super().__init__()
        if name not in FROZEN:
            raise InputError(f"backbone {name!r}: must be one of {', '.join(FROZEN)}")
        if in_channels < 3 or in_channels % 3:
            raise InputError(f"{in_channels} input channels: must be a multiple of 3 (RGB pictures, stacked)")
        self.name, self.in_channels, self.out_channels = name, in_channels, scaled(256, width)
        resnet = name == "resnet"
        layers = nn.Sequential(resnet_layers(width)) if resnet else vgg_layers(width, VGG11_PLAN[:7])
        prefix = "" if resnet else "features."
        self.pretrained = bool(pretrained and width == 1 and load_imagenet(layers, name, prefix))
        if in_channels > 3:
            layers[0] = inflated(layers[0], in_channels)
        self.model = layers
        if is_freeze and self.pretrained:
            freeze(self, self.first_layers)

    @property
    def first_layers(self):
        """Names of the submodules that freezing takes; never an inflated first convolution, which is new."""
        names = FROZEN[self.name][1:] if self.in_channels > 3 else FROZEN[self.name]
        return [f"model.{name}" for name in names]

    def map_side(self, side):
        """Side of the output map for a `side`-pixel input: ResNet's padding rounds up, VGG's pools down."""
        return -(-side // 8) if self.name == "resnet" else side // 8

    def forward(self, x):
        """(B, in_channels, H, W), or grey (B, in_channels/3, H, W) → (B, out_channels, H/8, W/8)."""
        first, *rest = self.model
        if 3 * x.shape[1] == self.in_channels:      # grey planes: sum the kernel over R, G and B
            weight = first.weight.unflatten(1, (-1, 3)).sum(2)             # (out, C, k, k) → (out, C/3, k, k)
            x = F.conv2d(x, weight, first.bias, first.stride, first.padding)
        else:
            x = first(x)
        for layer in rest:
            x = layer(x)
        return x


def freeze(model, names):
    """Stop the gradients of the submodules `names` of `model`; their batch-norm statistics still adapt."""
    for name in names:
        for parameter in model.get_submodule(name).parameters():
            parameter.requires_grad_(False)
