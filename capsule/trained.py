"""A trained network read back, and the pictures that it wants of any photograph:
for predict.py and Grad-CAM."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from capsule.data.databases import FIVE, THREE
from capsule.experiment import unlike
from capsule.inputs import augment
from capsule.inputs.crops import clip_square
from capsule.inputs.motion import ZERO, normalised_levels, read_motion
from capsule.inputs.views import KINDS
from capsule.modules import SVM, Network
from capsule.modules.backbone import start_from
from capsule.modules.registry import unmatched
from capsule.results import MAX_CLASSES, OTHER_SHAPE, check_facts, labels_of, one_line
from common.errors import InputError, reason
from common.files import read_json
from common.images import find_pictures, read_image
from common.tensors import load_tensors
from deca import make_reconstructor
from deca.landmarks import LandmarkDetector, warp_square

READY = {"rule": "ready motion"}
PIXEL_RULE = ("version", "jpeg_quality", "levels")      # of views and of motion
NO_FACE = "no face found"
FULL_CHANNELS = 64    # of a ResNet's first convolution; fewer in a --quick network


@dataclass(frozen=True)
class Trained:
    """A network with its weights, in eval mode on its device, and what it sees: kinds as in FrameImages.

    title: its experiment and what it must not be taken for, or its file's name. rule: what made the pictures
    that it sees besides the crop (`FrameImages.rule`); {} where nothing tells.
    """

    model: torch.nn.Module
    network: Network
    kinds: tuple
    reconstructor: str
    paint: str
    class_names: tuple
    title: str
    rule: dict = field(default_factory=dict)

    @property
    def motion(self):
        """The rule of the motion that it sees; {} where it sees none."""
        return self.rule if "motion" in self.kinds else {}

    @property
    def frontal(self):
        """Whether its motion is one picture, not thirteen views."""
        return self.motion.get("rule") == READY["rule"] or self.motion.get("yaws") == [0]

    @property
    def device(self):
        return next(iter(self.model.state_dict().values())).device

    def inputs(self, pictures):
        """pictures: a uint8 tensor (B, C, H, W) a stream → the network's inputs, nothing random."""
        side = self.network.side
        return augment.strict_batch([augment.shrunk(stack, side).to(self.device) for stack in pictures], side)

    def outputs(self, pictures):
        """Capsule lengths (or class probabilities) float32 (B, classes) of `pictures` (see `inputs`).

        Raises: InputError where they are no numbers, as of a training that went astray.
        """
        if isinstance(self.model, SVM):
            (images,) = augment.strict_batch(pictures, self.model.learnt["images"].shape[-1])
            return torch.from_numpy(self.model.scores((255 * images).round().to(torch.uint8).numpy()))
        with torch.inference_mode():
            outputs = self.model(*self.network.prepared(self.inputs(pictures))).float()
        return self.checked(self.network.scores(outputs).cpu())

    def checked(self, scores):
        """`scores`. Raises: InputError where they are no finite numbers."""
        if not scores.isfinite().all():
            raise InputError(f"{self.title}: its outputs are no numbers; take another fold, or train again")
        return scores


def load_trained(path, device, paint="shape_detail"):
    """The network whose state dict lies at `path`.

    A fold of ours (result/<experiment>/models/<data_sub>.pt) is known from experiment.json beside it; of any
    other file the network is known from its tensors, and `paint` says what its pictures show. Motion is then
    `normalised` for networks of this project alone; STSTNet, whose published weights are not of this
    project, takes it as it is: said.
    Raises: InputError, naming the file, when it is missing, unsafe, damaged or of another network.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise InputError(f"{path}: no file; train with --save-models, or give a state dict")
    tensors = load_tensors(path, device)
    facts = path.absolute().parent.parent / "experiment.json"
    told = (_of_experiment(read_json(facts), facts) if facts.is_file() else
            _of_tensors(tensors, path, paint))
    channels = {"crop": 3, "motion": 3 if told.frontal else 39}
    try:
        model, _ = told.network.make([channels.get(kind, 39) for kind in told.kinds])
    except TypeError as error:      # logits, which not every network has
        raise InputError(f"{facts}: does not say which network was trained ({error}); remove it and run its "
                         "script again") from error
    if isinstance(model, SVM):
        try:
            model.load_state_dict(tensors)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path}: not the state of an SVM ({error})") from error
        return replace(told, model=model)
    missing = unmatched(model, tensors)[1]
    if missing:
        raise InputError(f"{path}: not the weights of a {told.network.name} ({len(missing)} tensors "
                         f"are not in it or differ in shape, such as {missing[0]})")
    start_from(model, tensors)
    return replace(told, model=model.to(device).eval())


def _of_experiment(facts, path):
    """The Trained, without its model, that an experiment.json tells of."""
    try:
        check_facts(facts, path)
        config = facts["config"]
        kinds = tuple(stream["kind"] for stream in config["inputs"])
        network = Network(config["model"], facts["classes"], logits=config["logits"], quick=config["quick"],
                          pretrained=False, joined=config["streams"] == "crop+views")
        if config["paint"] not in KINDS:
            raise ValueError(f"paint {config['paint']}")
        rule = next((stream for stream in config["inputs"] if stream["kind"] != "crop"), {})
        return Trained(None, network, kinds, facts["reconstructor"] or "auto", config["paint"],
                       tuple(facts["class_names"]),
                       " · ".join([one_line(facts["experiment"]), *labels_of(facts)]), rule)
    except (*OTHER_SHAPE, InputError) as error:
        raise InputError(f"{path}: does not say which network was trained ({reason(error)}); remove it "
                         "and run its script again") from error


def _of_tensors(tensors, path, paint):
    """The Trained, without its model, that the names and shapes of a state dict and `paint` tell of."""
    def shape(key):
        return (*getattr(tensors.get(key), "shape", ()), 0, 0)

    known = {"conv.model.conv1.weight": "resnet", "conv.model.0.weight": "vgg",
             "model.conv1.weight": "ResNet", "model.features.0.weight": "VGG",
             "conv3.weight": "STSTNet", "conv.0.weight": "MotionCapsuleNet", "images": "SVM",
             "first_conv.model.conv1.weight": "MECapsuleNetDualCA"
             if "first_attention.conv1.weight" in tensors else "MECapsuleNetDual"}
    first = next((key for key in known if key in tensors), None)
    if first is None:
        raise InputError(f"{path}: the tensors of no network of this project")
    classes = max(shape("digitcaps.weight")[0], shape("model.fc.weight")[0],
                  shape("model.classifier.6.weight")[0], shape("fc.weight")[0])
    if first == "images":       # an SVM: its training clips' labels tell
        labels = torch.as_tensor(tensors.get("labels", 0))
        classes = 5 if labels.dtype == torch.int64 and (labels > 2).any() else 3
    stack, joined = (shape(first)[1] == channels for channels in (39, 42))
    dual = first.startswith("first_conv")
    if classes > MAX_CLASSES:
        raise InputError(f"{path}: a network of {classes} classes; {MAX_CLASSES} are the most")
    network = Network(known[first], classes or 3, quick=0 < shape(first)[0] < FULL_CHANNELS,
                      pretrained=False, joined=joined)
    views, rule = KINDS[paint], {}
    kinds = ("crop", views) if dual or joined else (views,) if stack else ("crop",)
    if network.is_small or (views == "motion" and kinds == ("crop",)):
        kinds, rule = ("motion",), {**READY, "normalised": {}}
        if network.name == "STSTNet":
            rule = READY
            print(f"{path}: taken for published weights, whose motion pictures are not normalised; a network "
                  "trained here is known by the experiment.json of its folder", flush=True)
    elif "motion" in kinds:
        rule = {"rule": "motion on the face"}
    names = {3: THREE, 5: FIVE}.get(network.classes, tuple(f"class {n}" for n in range(network.classes)))
    return Trained(None, network, kinds, "auto", paint, names, path.name, rule)


def maker_of(trained, device):
    """The reconstructor whose views `trained` sees; None where it sees none.

    Raises: InputError for a network that sees thirteen views of motion.
    """
    if trained.motion and not trained.frontal:
        raise InputError("the network sees thirteen views of motion, which a single picture does not have; "
                         "give an experiment of clips: python grad_cam_visual.py --experiment NAME")
    if not set(trained.kinds) - {"crop", "motion"}:
        return None
    maker = make_reconstructor(trained.reconstructor, str(device))
    if trained.reconstructor == "auto":
        print(f"{trained.title}: nothing tells what made the views it was trained on; here {maker.name} "
              f"makes them, with --paint {trained.paint}", flush=True)
    check_maker(trained, {"model": maker.model, "made by": maker.rule})
    return maker


def check_maker(trained, rule):
    """Raises: InputError where `rule`, of views or motion made now, tells of other model files, or of another
    version, than the experiment's. Another rasterizer will do: they draw the same but for a pixel in a
    million."""
    names = [name.removeprefix(f"{what} ") for what in ("model", "made by", *PIXEL_RULE)
             if trained.rule.get(what) and rule.get(what)
             for name, *_ in unlike(what, trained.rule[what], rule[what])]
    if names:
        raise InputError(f"{trained.title}: trained on 3-D faces by {trained.reconstructor} of another "
                         f"{', '.join(names)}; put back what it was trained with, or train again")


def picture_options(parser, required=True):
    """Add PICTURES, --model, --paint and --device, as predict.py and grad_cam_visual.py take them."""
    parser.add_argument("pictures", nargs="+" if required else "*", type=Path,
                        help="pictures, or folders of them (links to folders in them are not followed)")
    parser.add_argument("--model", required=required, default="", help="state dict of a trained network")
    parser.add_argument("--paint", default="shape_detail", choices=KINDS,
                        help="what its pictures show, where the file alone does not tell [shape_detail]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")


def look_at(paths, trained, device, failed):
    """Yield each picture among `paths` (folders are searched), with a bar: (path, crop, stacks, face), the
    last three as `pictures_of` has them. `failed`: a list that gets a line for each that cannot be used.

    Raises: InputError as `find_pictures` and `maker_of` do.
    """
    maker = maker_of(trained, device)
    for path in tqdm(find_pictures(paths), unit="picture", disable=None):
        try:
            yield path, *pictures_of(path, trained, maker)
        except InputError as error:
            failed.append(str(error))


def pictures_of(path, trained, maker):
    """What `trained` sees of the picture at `path`.

    maker: `maker_of`. Returns: (face crop uint8 (3, 224, 224), None where it sees motion; list of uint8
    tensors (1, C, H, W), one a stream; "found", "no face found" or "not needed").
    Raises: InputError for an unreadable picture, and for a photograph where motion is asked for.
    """
    if trained.motion:
        return None, [_motion_of(path, trained)], "not needed"
    image = read_image(path)
    center, side, how = clip_square(image, LandmarkDetector())
    crop = np.ascontiguousarray(warp_square(image, center, side).transpose(2, 0, 1))
    stacks, found = [], how != "no face"
    for kind in trained.kinds:
        stack = torch.from_numpy(crop)[None]
        if kind != "crop":
            views, faces = maker.views(stack, trained.paint)
            stack, found = views.reshape(1, -1, *views.shape[-2:]), found and bool(faces.all())
        stacks.append(stack)
    return crop, stacks, "found" if found else NO_FACE


def _motion_of(path, trained):
    """The motion picture at `path` as the network was trained to see it, uint8 (1, 3, H, W)."""
    image = read_motion(path)
    still = np.median(image[:2], axis=(1, 2)) == ZERO[:2, 0, 0]        # most of a picture of ours is
    if not still.all() and LandmarkDetector().detect(image.transpose(1, 2, 0)) is not None:
        raise InputError(f"{path}: shows a face, but the network sees motion, which a photograph does not "
                         "have; give pictures of motion (red u, green v, blue strain)")
    image = torch.from_numpy(image)[None]
    return normalised_levels(image) if "normalised" in trained.motion else image
