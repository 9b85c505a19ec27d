"""A trained network read back, and the pictures that it wants of any photograph:
for predict.py and Grad-CAM."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from capsule.data.databases import FIVE, THREE
from capsule.inputs import augment
from capsule.inputs.crops import clip_square
from capsule.inputs.views import KINDS
from capsule.modules import Network
from capsule.modules.registry import start_from, unmatched
from common.errors import InputError
from common.files import read_json
from common.images import read_image
from common.tensors import load_tensors
from deca.landmarks import LandmarkDetector, warp_square

FULL_CHANNELS = 64    # of a ResNet's first convolution; fewer in a --quick network


@dataclass(frozen=True)
class Trained:
    """A network with its weights, in eval mode on its device, and what it sees: kinds as in FrameImages."""

    model: torch.nn.Module
    network: Network
    kinds: tuple
    reconstructor: str
    paint: str
    class_names: tuple

    @property
    def device(self):
        return next(self.model.parameters()).device

    def inputs(self, pictures):
        """pictures: a uint8 tensor (B, C, H, W) a stream → the network's inputs, nothing random."""
        return augment.strict_batch([stack.to(self.device) for stack in pictures], self.network.side)

    def outputs(self, pictures):
        """Capsule lengths (or class probabilities) float32 (B, classes) of `pictures` (see `inputs`)."""
        with torch.inference_mode():
            return self.model(*self.network.prepared(self.inputs(pictures))).float().cpu()


def load_trained(path, device, name="", paint="shape_detail"):
    """The network whose state dict lies at `path`.

    A fold of ours (result/<experiment>/models/<subject>.pt) is known from experiment.json beside it; of any
    other file the network is known from its tensors, or by `name` in the registry; then `paint` says what
    its views show.
    Raises: InputError, naming the file, when it is missing, unsafe, damaged or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; train with --save-models, or give a state dict")
    tensors = load_tensors(path, device)
    facts = path.parent.parent / "experiment.json"
    if facts.is_file():
        network, kinds, reconstructor, paint, names = _of_experiment(read_json(facts), facts)
    else:
        network, kinds = _of_tensors(tensors, path, name, KINDS.get(paint, paint))
        reconstructor, names = "auto", THREE if network.classes == 3 else FIVE[:network.classes]
    channels = {"crop": 3, "views": 39, "texture": 39, "motion": 39}
    model, _ = network.make([channels[kind] for kind in kinds])
    missing = unmatched(model, tensors)[1]
    if missing:
        raise InputError(f"{path}: not the weights of a {network.name} ({len(missing)} tensors "
                         f"are not in it or differ in shape, such as {missing[0]})")
    start_from(model, tensors)
    return Trained(model.to(device).eval(), network, kinds, reconstructor, paint, tuple(names))


def _of_experiment(facts, path):
    """(Network, kinds, reconstructor, paint, class names) that an experiment.json tells of."""
    try:
        config = facts["config"]
        kinds = tuple(stream["kind"] for stream in config["inputs"])
        network = Network(config["model"], facts["classes"], logits=config["logits"], quick=config["quick"],
                          pretrained=False, joined=config["streams"] == "crop+views")
        return network, kinds, facts["reconstructor"] or "auto", config["paint"], facts["class_names"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: does not say which network was trained ({error}); "
                         "train it again") from error


def _of_tensors(tensors, path, name, views):
    """(Network, kinds) that the names and shapes of a state dict tell of; `views`: the kind of its views."""
    def shape(key):
        return tuple(tensors[key].shape) if key in tensors else (0, 0)

    first = next((key for key in ("conv.model.conv1.weight", "first_conv.model.conv1.weight",
                                  "conv.model.0.weight", "model.conv1.weight", "model.features.0.weight")
                  if key in tensors), "")
    known = {"conv.model.conv1.weight": "resnet", "conv.model.0.weight": "vgg",
             "model.conv1.weight": "ResNet", "model.features.0.weight": "VGG",
             "first_conv.model.conv1.weight": "MECapsuleNetDualCA"
             if "first_attention.conv1.weight" in tensors else "MECapsuleNetDual"}
    if not (name or first):
        raise InputError(f"{path}: the tensors of no network of this project; name it with --network")
    classes = max(shape("digitcaps.weight")[0], shape("model.fc.weight")[0],
                  shape("model.classifier.6.weight")[0], shape("fc.weight")[0])
    stack = shape(first)[1] == 39
    dual = first.startswith("first_conv")
    network = Network(name or known[first], classes or 3, quick=0 < shape(first)[0] < FULL_CHANNELS,
                      pretrained=False)
    return network, ("crop", views) if dual else (views,) if stack else ("crop",)


def crop_of(path):
    """(uint8 (3, 224, 224) face crop of the photograph at `path`, how the square was found).

    See `clip_square`.
    """
    image = read_image(path)
    center, side, how = clip_square(image, LandmarkDetector())
    return np.ascontiguousarray(warp_square(image, center, side).transpose(2, 0, 1)), how


def pictures_of(crop, trained, maker):
    """(list of uint8 tensors (1, C, H, W), one a stream of `trained`, was a 3-D face found).

    crop: uint8 (3, 224, 224). maker: a deca reconstructor, None for a network that sees the crop alone.
    Raises: InputError for motion.
    """
    stacks, found = [], True
    for kind in trained.kinds:
        if kind == "motion":
            raise InputError("the network sees motion: a single picture has none; "
                             "give an experiment of clips")
        if kind == "crop":
            stacks.append(torch.from_numpy(crop)[None])
            continue
        views, faces = maker.views(torch.from_numpy(crop)[None], trained.paint)
        stacks.append(views.reshape(1, -1, *views.shape[-2:]))
        found = bool(faces.all())
    return stacks, found
