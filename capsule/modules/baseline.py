"""The baselines: VGG-11 and ResNet-18 with a new last layer (SPEC section 6)."""

import torch
from torch import nn
from torchvision.models import resnet18, vgg11

from capsule.modules.backbone import FROZEN, freeze, load_imagenet, resnet_layers, scaled, vgg_layers


class _Baseline(nn.Module):
    """A torchvision network in `model`; softmax on its output unless `logits`.

    forward: (B, 3, H, W) in [0, 1] → (B, classes), probabilities (or logits), float32.
    """

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        scores = self.model(x).float()
        return scores if self.logits else scores.softmax(1)


class ResNet(_Baseline):
    """ResNet-18 for `classes`.

    logits: give logits instead of probabilities. is_freeze: keep `conv1 bn1 layer1` as they are where they
    are pretrained. pretrained, width: as MECapsuleNet's.
    """

    first_layers = tuple(f"model.{name}" for name in FROZEN["resnet"])

    def __init__(self, classes, logits=False, pretrained=True, width=1.0, is_freeze=True):
        super().__init__(logits)
        with torch.device("meta"):    # torchvision's wiring; every layer with weights is replaced below
            self.model = resnet18()
        for name, layer in resnet_layers(width, stages=4).items():
            setattr(self.model, name, layer)
        self.model.fc = nn.Linear(scaled(512, width), classes)
        self.pretrained = bool(pretrained and width == 1 and load_imagenet(self.model, "resnet"))
        if is_freeze and self.pretrained:
            freeze(self, self.first_layers)


class VGG(_Baseline):
    """VGG-11 for `classes`, all layers trained (is_freeze has nothing to keep). Options as ResNet's."""

    def __init__(self, classes, logits=False, pretrained=True, width=1.0, is_freeze=False):
        super().__init__(logits)
        with torch.device("meta"):
            self.model = vgg11(init_weights=False)
        hidden = scaled(4096, width)
        self.model.features = vgg_layers(width)
        self.model.classifier = nn.Sequential(
            nn.Linear(scaled(512, width) * 7 * 7, hidden), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(hidden, classes))
        for layer in self.model.classifier[0:6:3]:
            nn.init.normal_(layer.weight, 0, 0.01)    # torchvision's own start of VGG
            nn.init.zeros_(layer.bias)
        self.pretrained = bool(pretrained and width == 1 and load_imagenet(self.model, "vgg"))
