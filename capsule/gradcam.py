"""Where a trained fold looks: Grad-CAM at each stream's last backbone layer, for clips of its own subject.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV
2017; computed by the grad-cam package.
"""

import dataclasses
import pickle
import zipfile
from dataclasses import dataclass

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from capsule.config import Config
from capsule.inputs import augment
from capsule.modules import VGG, MECapsuleNet, MECapsuleNetDual, MECapsuleNetDualCA, ResNet
from capsule.results import check_inside
from common.errors import InputError

CHANNELS = {"crop": 3, "views": 39}      # of each stream: RGB, thirteen views as RGB
# What torch.load raises for a file that is damaged, no state dict, or holds code.
UNREADABLE = (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError,
              LookupError, TypeError, AttributeError, ImportError, OverflowError, MemoryError)


@dataclass(frozen=True)
class ClipMaps:
    """What a figure shows of one clip; S is the side of the pictures."""

    key: str                  # "<data>/<subject>/<clip>"
    truth: int
    prediction: int
    lengths: np.ndarray       # (C,) capsule lengths (or class probabilities)
    apex: np.ndarray          # (S, S, 3) uint8
    onset: np.ndarray | None  # the same; None where the onset frame is not on disk
    views: np.ndarray | None  # (13, S, S) uint8 grey; None for a network without views
    maps: dict                # stream ("crop", "views") → (S, S) in [0, 1]; all 0: no evidence for the class
    side: int                 # side of the layer that the maps come from


def config_of(run, data_root, device):
    """The Config that `run` (a results.Run) was made with, on this machine's folders and device.

    Raises: InputError, naming experiment.json, when it holds values that no run could have.
    """
    stored, values = run.facts["config"], {}
    for option in dataclasses.fields(Config):
        value = stored.get(option.name)
        if not option.metadata["identity"] or value is None:    # None: a run without views, say
            continue
        if type(value) is not type(option.default):
            path = run.folder / "experiment.json"
            raise InputError(f"{path}: config {option.name} is {value!r:.40}, not as a run writes it; "
                             "train the experiment again with --save-models")
        values[option.name] = value
    return Config(**values, data_root=str(data_root), result_root=str(run.folder.parent),
                  experiment=run.name, device=device)


def streams_of(run):
    """The kinds of pictures that the networks of `run` take, in order: "crop", "views" or both.

    Raises: InputError when experiment.json does not say.
    """
    streams = run.facts["config"].get("streams")
    if streams not in (["crop"], ["views"], ["crop", "views"]):
        raise InputError(f"{run.folder / 'experiment.json'}: does not say which pictures the network takes; "
                         "train it again with --save-models")
    return tuple(streams)


def build_network(config, streams, classes):
    """An untrained network as the training scripts make it. Returns: nn.Module.

    Raises: InputError for a model that does not go with the streams.
    """
    options = {"pretrained": False, "width": config.width}
    size = (config.input_size, config.input_size)
    if len(streams) == 2:
        networks = {"MECapsuleNetDualCA": MECapsuleNetDualCA, "MECapsuleNetDual": MECapsuleNetDual}
        if config.model in networks:
            return networks[config.model](classes, input_size=size, **options)
    elif config.model in ("resnet", "vgg"):
        return MECapsuleNet((CHANNELS[streams[0]], *size), classes, conv_name=config.model, **options)
    elif config.model in ("ResNet", "VGG"):
        return {"ResNet": ResNet, "VGG": VGG}[config.model](classes, config.logits, **options)
    raise InputError(f"model {config.model!r} with {' and '.join(streams)}: no such network; "
                     "train the experiment again with --save-models")


def model_path(run, data_sub):
    """Where the fold's state dict lies. Raises: InputError for a link that leads out of the result folder."""
    return check_inside(run.folder.parent, run.folder / "models" / f"{data_sub}.pt")


def load_model(run, data_sub, config, device):
    """The network that was trained without `data_sub`, in eval mode on `device`.

    Only tensors are read: a file that holds code is refused and nothing in it runs.
    Raises: InputError, naming the file, when it is missing, unsafe, damaged or of another network.
    """
    path = model_path(run, data_sub)
    if not path.is_file():
        raise InputError(f"{path}: no such file; train the experiment with --save-models")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except UNREADABLE as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise InputError(f"{path}: not a state dict that can be read safely ({reason}); nothing in it was "
                         "run; remove it and train the fold again with --save-models") from error
    model = build_network(config, streams_of(run), run.classes)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: the weights of another network ({reason}); remove it and train the fold "
                         "again with --save-models") from error
    return model.to(device).eval()


def chosen_clips(run, clips, key=None, every=False):
    """The part of `clips` (capsule.data.protocol.Clips) to draw, with the labels that the run was made with.

    `key`: "<data>/<subject>/<clip>"; `every`: all clips whose fold has a model; neither: the first of those.
    Raises: InputError when there is no such clip, no model, or the clip is not in the data root.
    """
    own = {"/".join(row[:3]): row for row in run.clips[["data", "subject", "clip", "data_sub", "label"]]
           .itertuples(index=False, name=None)}
    if key is not None and key not in own:
        raise InputError(f"--clip {key}: not in {run.name}; its clips are called like {next(iter(own))}")
    wanted = [key] if key else [k for k, row in own.items() if model_path(run, row[3]).is_file()]
    if not wanted:
        raise InputError(f"{run.folder / 'models'}: no fold has a model there; train the experiment with "
                         "--save-models")
    wanted = wanted if every else wanted[:1]
    places = {name: place for place, name in enumerate(clips.keys)}
    missing = [name for name in wanted if name not in places]
    if missing:
        raise InputError(f"{missing[0]}: not in the clip list of this data root; choose the --data-root that "
                         "the experiment was trained on")
    table = clips.table.iloc[[places[name] for name in wanted]].reset_index(drop=True)
    table = table.assign(label=[own[name][4] for name in wanted])
    return dataclasses.replace(clips, table=table, notes={**clips.notes, "name": f"{clips.name}_grad_cam"})


def apexes(clips, crops):
    """List of (row of the clip table, place of its apex in `crops`, key), subjects together."""
    place = {int(clip): i for i, (clip, offset) in enumerate(zip(crops.clip, crops.offset, strict=True))
             if offset == 0}
    rows = list(enumerate(clips.table.itertuples(index=False)))
    return [(row, place[i], clips.keys[i]) for i, row in sorted(rows, key=lambda pair: pair[1].data_sub)]


def differences(run, drawn):
    """Lines about clips (list of ClipMaps) whose prediction is not the one stored with the fold: the pictures
    have changed since, or another machine rounds otherwise."""
    stored = {"/".join(key): int(label) for fold in run.finished.values()
              for key, label in zip(fold.clips, fold.predictions["strict"][-1], strict=True)}
    return [f"{clip.key}: predicted {run.facts['class_names'][clip.prediction]} here, but "
            f"{run.facts['class_names'][stored[clip.key]]} is stored with its fold"
            for clip in drawn if clip.key in stored and stored[clip.key] != clip.prediction]


def target_layers(model):
    """The last backbone layer of each stream, in the order of the network's arguments."""
    if isinstance(model, MECapsuleNetDual):
        return [model.first_conv.model[-1], model.second_conv.model[-1]]
    if isinstance(model, MECapsuleNet):
        return [model.conv.model[-1]]
    return [model.model.layer4 if isinstance(model, ResNet) else model.model.features[-1]]


class _OneInput(nn.Module):
    """A network of several streams as one of a single tensor: the streams stacked along the channels."""

    def __init__(self, model, channels):
        super().__init__()
        self.model, self.channels = model, channels

    def forward(self, x):
        return self.model(*x.split(self.channels, 1))     # (B, ΣC, S, S) → a tensor (B, C, S, S) a stream


def activation_maps(model, inputs, label=None):
    """Grad-CAM maps of one clip.

    `inputs`: list of float (1, C, S, S) in [0, 1], one a stream. `label`: the class to explain, default the
    predicted one. Returns: (list of maps (S, S) float32 in [0, 1], one a stream, outputs (classes,) float32,
    side of the layer's map). A map is scaled to its own maximum; it is 0 throughout where nothing speaks for
    the class.
    """
    network = _OneInput(model, [x.shape[1] for x in inputs])
    stacked = torch.cat(inputs, 1)                        # (1, ΣC, S, S)
    with torch.inference_mode():
        outputs = network(stacked)[0].float().cpu().numpy()
    label = int(outputs.argmax()) if label is None else label
    maps = []
    for layer in target_layers(model):    # one at a time: the package would average the streams' maps
        cam = GradCAM(network, [layer])
        try:
            maps.append(cam(stacked, [ClassifierOutputTarget(label)])[0])
            side = cam.activations_and_grads.activations[0].shape[-1]
        finally:
            cam.activations_and_grads.release()
    model.zero_grad(set_to_none=True)
    return maps, outputs, side


def explain(model, size, streams, key, truth, pictures, onset=None):
    """The ClipMaps of one clip for its predicted class.

    `size`: side of the network's input. `streams`: what it takes, of "crop" and "views". `pictures`: stream →
    uint8 tensor (C, 224, 224) of the apex, "crop" always. `onset`: uint8 (224, 224, 3) or None.
    """
    device = next(model.parameters()).device
    inputs = augment.strict_batch([pictures[name][None].to(device) for name in streams], size)
    maps, outputs, side = activation_maps(model, inputs)
    crop = pictures["crop"].permute(1, 2, 0).numpy()     # (3, S, S) → (S, S, 3)
    maps = {name: _resized(found, len(crop)) for name, found in zip(streams, maps, strict=True)}
    views = pictures["views"].numpy() if "views" in pictures else None
    return ClipMaps(key, truth, int(outputs.argmax()), outputs, crop, onset, views, maps, side)


def _resized(image, size):
    """A float map (S, S) scaled to (size, size), bilinear."""
    found = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
    scaled = nn.functional.interpolate(found, (size, size), mode="bilinear", align_corners=False)
    return scaled[0, 0].numpy()


def mean_maps(clips):
    """The mean picture and map of each stream over the clips of each predicted class.

    `clips`: list of ClipMaps. Returns: dict of (stream, class) → (picture (S, S, 3) uint8, map (S, S) in
    [0, 1], number of clips). The picture under the views' map is the frontal view.
    """
    groups = {}
    for clip in clips:
        for stream, found in clip.maps.items():
            picture = clip.apex if stream == "crop" else np.repeat(clip.views[6][:, :, None], 3, 2)
            groups.setdefault((stream, clip.prediction), []).append((picture, found))
    return {name: (np.mean([picture for picture, _ in group], 0).round().astype(np.uint8),
                   np.mean([found for _, found in group], 0), len(group)) for name, group in groups.items()}
