"""Where a trained fold looks: HiResCAM at each stream's last backbone layer, for clips of its own subject.

Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
networks", arXiv 2011.08891; computed by the grad-cam package. Grad-CAM (Selvaraju et al., ICCV 2017) weighs a
channel by its gradient's mean over the map; but a capsule votes by where it lies, which that mean loses
(docs/differences.md has figures).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from pytorch_grad_cam import HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from tqdm import tqdm

from capsule.data import load_clips
from capsule.experiment import PLACES, model_path
from capsule.inputs import face_crops, thirteen_views
from capsule.inputs.motion import face_motion, normalised, ready_motion
from capsule.inputs.sampling import apex_rows
from capsule.modules import SVM, MECapsuleNet, MECapsuleNetDual, MotionCapsuleNet, ResNet, STSTNet
from capsule.trained import READY, check_maker, load_trained
from common.errors import InputError


@dataclass(frozen=True)
class ClipMaps:
    """What a figure shows of one clip; S is the side of the pictures."""

    key: str                  # "<data>/<subject>/<clip>"
    truth: int | None
    prediction: int
    lengths: np.ndarray       # (C,) capsule lengths (or class probabilities)
    apex: np.ndarray | None   # (S, S, 3) uint8; None where the network saw ready motion pictures
    onset: np.ndarray | None  # the same; None where the onset frame is not on disk
    views: np.ndarray | None  # uint8 (13, S, S) grey or (13, S, S, 3); (1, S, S, 3): frontal motion; None
    maps: dict                # stream ("crop", "views", "motion") → (S, S) in [0, 1]; 0: no evidence
    side: int                 # side of the layer that the maps come from

    @property
    def frontal(self):
        """The middle one of the views."""
        return self.views[len(self.views) // 2]


def places_of(run):
    """Where the run's pictures came from: a dict of `capsule.experiment.PLACES`. Raises: InputError for a run
    that does not say."""
    places = run.facts.get("places")
    if not isinstance(places, dict) or not set(PLACES) <= set(places):
        raise InputError(f"{run.folder / 'experiment.json'}: does not say where its pictures came from: an "
                         "older version made it; train again")
    return places


def clips_of(run, data_root, key=None, every=False):
    """The clips to draw, as Clips with the labels that the run was made with.

    `key`: "<data>/<subject>/<clip>"; `every`: all clips whose fold has a model; neither: the first of those.
    Raises: InputError when there is no such clip, no model, or the clip is not in the data root.
    """
    own = run.clips.set_index(run.clips[["data", "subject", "clip"]].agg("/".join, axis=1))
    if key is not None and key not in own.index:
        raise InputError(f"--clip {key}: not in {run.name}; its clips are called like {own.index[0]}")
    wanted = own.loc[[key]] if key else own[[model_path(run, name).is_file() for name in own["data_sub"]]]
    if wanted.empty:
        raise InputError(f"{run.folder / 'models'}: no fold has a model there; train the experiment with "
                         "--save-models")
    config = run.facts["config"]
    if config["dataset"] == "synthetic" and not (Path(data_root) / "synthetic").is_dir():
        raise InputError(f"--data-root {data_root}: no synthetic database there; "
                         "give the one of the training")
    places = places_of(run)
    frames = places["frames"] if places["motion"] == "frames" else None
    clips = load_clips(config["dataset"], data_root, run.classes, places["protocol"], config["subset"],
                       places["skip_missing"], frames)
    rows = {name: row for row, name in enumerate(clips.keys)}
    wanted = (wanted if every else wanted[:1]).sort_values("data_sub", kind="stable")     # a fold's together
    missing = [name for name in wanted.index if name not in rows]
    if missing:
        raise InputError(f"{missing[0]}: not in the clip list of this data root; choose the --data-root that "
                         "the experiment was trained on")
    table = clips.table.iloc[[rows[name] for name in wanted.index]].reset_index(drop=True)
    return replace(clips, table=table.assign(label=wanted["label"].to_numpy()))


def pictures_of_clips(clips, trained, device, motion="", views_root=""):
    """The crops of `clips` and the FrameImages of each stream of `trained`: (crops, {kind: FrameImages}).

    motion: folder of ready motion pictures, where the network saw such; there are no crops then (None).
    views_root: folder of views made elsewhere, where it saw such.
    """
    ready = trained.motion.get("rule") == READY["rule"]
    crops = None if ready else face_crops(clips)
    stacks = {"crop": crops}
    for kind in set(trained.kinds) - {"crop"}:
        if ready:
            stacks[kind] = ready_motion(clips, motion, say=lambda remarks: None)[1]
        elif trained.frontal:
            stacks[kind] = face_motion(crops, trained.reconstructor, (0,), device)
        else:
            stacks[kind] = thirteen_views(crops, trained.reconstructor, trained.paint, device,
                                          views_root=views_root)
        check_maker(trained, stacks[kind].rule)
    if "normalised" in trained.motion:
        stacks["motion"] = normalised(stacks["motion"])
    return crops, stacks


def explain_clips(run, clips, device):
    """Yield the ClipMaps of `clips` (see `clips_of`), each by the network of its own fold."""
    for key, label, trained, pictures, *photographs in held_out(run, clips, device):
        yield explain(trained, key, label, pictures, *photographs)


def held_out(run, clips, device):
    """Yield each of `clips` (see `clips_of`), with a bar: its key, its label, the Trained of its subject's
    fold; its pictures, crop and onset as `explain` takes them."""
    places, subject = places_of(run), None
    rows = tqdm(clips.table.itertuples(), desc="clips", unit="clip", total=len(clips.table), disable=None)
    for i, row in enumerate(rows):
        if row.data_sub != subject:
            trained, subject = load_trained(model_path(run, row.data_sub), device), row.data_sub
        if i == 0:
            crops, stacks = pictures_of_clips(clips, trained, str(device), places["motion"],
                                              places["views_root"])
            apexes = apex_rows(stacks[trained.kinds[0]], np.arange(len(clips.table)))
        place = apexes[i]
        pictures = [stacks[kind].images[place][None] for kind in trained.kinds]
        crop = crops and crops.images[place].numpy()
        onset = crops.onsets[i].numpy() if crops and crops.has_onset[i] else None
        yield clips.keys[i], row.label, trained, pictures, crop, onset


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
    if isinstance(model, STSTNet):
        return [model.average]      # where its three branches come together
    if isinstance(model, MotionCapsuleNet):
        return [model.conv]
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


def activation_maps(model, inputs):
    """Maps of what speaks for the predicted class of one clip.

    `inputs`: list of float (1, C, S, S) in [0, 1], one a stream. Returns: (list of maps (S, S) float32 in
    [0, 1], one a stream, outputs (classes,) float32, side of the layer's map). A map is scaled
    from its own least to its own most; it is 0 throughout where nothing speaks for the class.
    """
    network = _OneInput(model, [x.shape[1] for x in inputs])
    stacked = torch.cat(inputs, 1)                        # (1, ΣC, S, S)
    with torch.inference_mode():
        outputs = network(stacked)[0].float().cpu().numpy()
    maps = []
    for layer in target_layers(model):    # one at a time: the package would average the streams' maps
        cam = HiResCAM(network, [layer])
        try:
            maps.append(cam(stacked, [ClassifierOutputTarget(int(outputs.argmax()))])[0])
            side = cam.activations_and_grads.activations[0].shape[-1]
        finally:
            cam.activations_and_grads.release()
    model.zero_grad(set_to_none=True)
    return maps, outputs, side


def explain(trained, key, truth, pictures, crop, onset=None):
    """The ClipMaps of one clip or picture for its predicted class.

    trained: capsule.trained.Trained. truth: its class, or None. pictures: a uint8 tensor (1, C, H, W)
    a stream. crop: uint8 (3, S, S), or None. onset: the same. Raises: InputError for an SVM.
    """
    if isinstance(trained.model, SVM):
        raise InputError("an SVM has no layers, so there is no place that it looks at; give an "
                         "experiment with a network (--model STSTNet, MotionCapsuleNet, MECapsuleNet)")
    maps, outputs, side = activation_maps(trained.model, trained.network.prepared(trained.inputs(pictures)))
    outputs = trained.checked(trained.network.scores(torch.from_numpy(outputs)[None]))[0].numpy()
    names = [kind if kind == "crop" or (kind == "motion" and trained.frontal) else "views"
             for kind in trained.kinds]
    if trained.network.joined:    # one map for all channels
        maps = maps * len(names)
    maps = {name: cv2.resize(found, (stack.shape[3], stack.shape[2]))
            for name, found, stack in zip(names, maps, pictures, strict=True)}
    views = next((_shown(stack, kind) for stack, kind in zip(pictures, trained.kinds, strict=True)
                  if kind != "crop"), None)
    apex, onset = (None if photograph is None else np.ascontiguousarray(photograph.transpose(1, 2, 0))
                   for photograph in (crop, onset))                         # (3, S, S) → (S, S, 3)
    return ClipMaps(key, truth, int(outputs.argmax()), outputs, apex, onset, views, maps, side)


def _shown(stack, kind):
    """Views (1, 13 or 39 or 3, H, W) as a figure shows them: (13, H, W) grey, (13 or 1, H, W, 3)."""
    if kind == "views":
        return stack[0].numpy()
    return stack[0].unflatten(0, (-1, 3)).permute(0, 2, 3, 1).numpy()       # (13·3, H, W) → (13, H, W, 3)


def mean_maps(clips):
    """The mean picture and map of each stream over the clips of each predicted class.

    `clips`: list of ClipMaps. Returns: dict of (stream, class) → (picture (S, S, 3) or grey (S, S) uint8, map
    (S, S) in [0, 1], number of clips). The picture under the views' map is the frontal view.
    """
    groups = {}
    for clip in clips:
        for stream, found in clip.maps.items():
            picture = clip.apex if stream == "crop" else clip.frontal
            groups.setdefault((stream, clip.prediction), []).append((picture, found))
    return {name: (np.mean([picture for picture, _ in group], 0).round().astype(np.uint8),
                   np.mean([found for _, found in group], 0), len(group)) for name, group in groups.items()}
