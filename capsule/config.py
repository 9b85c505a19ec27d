"""The options of the training scripts: a script's constants, overridden from the command line, checked here.

`Options` checks its values when it is made, before anything is read, trained or written.
"""

import argparse
import dataclasses
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from capsule.data.databases import DATABASES
from capsule.data.protocol import SUBSETS, check_list, database_name, protocol_name
from capsule.inputs.views import KINDS
from capsule.modules import Network
from common.console import GOES_ON, Parser, run_main
from common.errors import InputError
from common.names import plain_name

# --quick's small network starts from random weights: more steps an epoch and larger ones, in fewer epochs.
QUICK_TRAINING = {"epochs": 6, "batch_size": 8, "learning_rate": 5e-4, "lr_decay": 0.8}
OF_A_SCRIPT = ("model", "freeze", "reconstructor", "paint", "views_root", "rasterizer", "logits", "streams",
               "motion")      # options that exist only in scripts that give a value for them


def _option(default, text, choices=(), identity=True, between=()):
    """A field that is also a command-line option. between: lowest and highest value. identity: is it part of
    the experiment's? Not if the numbers do not depend on it, or if what it led to is recorded there."""
    return field(default=default, metadata={"help": text, "choices": choices, "identity": identity,
                                            "between": between})


@dataclass(frozen=True)
class Options:
    """Everything a run is told: `script`, the program's name; each other field is an option of that name.

    Raises: InputError for option values that no run could use.
    """

    script: str = _option("", "name of the program")
    dataset: str = _option("composite", f"{', '.join(DATABASES)}, as people write them (CASME2, SMIC, ...)")
    classes: int = _option(3, "3 (negative, positive, surprise) or 5 (CASME II only)", (3, 5))
    protocol: str = _option("dsnca", "clip list: dsnca (the reference's own), megc2019, or a .csv file")
    subset: str = _option("all", "all clips, or only the subjects filmed with glasses", SUBSETS)
    frames: str = _option("", "part of the name of the folder to take frames from, where there are several",
                          identity=False)
    model: str = _option("", "network to train")
    freeze: bool = _option(False, "keep the first layers as they are, where they hold pretrained weights "
                          "(the baseline VGG trains all)")
    streams: str = _option("", "what the network sees", ("views", "crop+views", "pictures"))
    reconstructor: str = _option("auto", "what makes the 3-D face: DECA's official files, the face mesh, or "
                                 "DECA where its files are there", ("auto", "deca", "mesh"), False)
    paint: str = _option("shape_detail", "what is painted on the 3-D face", tuple(KINDS))
    motion: str = _option("frames", "'frames': motion from onset to apex on the 3-D face; or a folder of "
                          "ready motion pictures")
    rasterizer: str = _option("auto", "what draws the views; auto: torch; pytorch3d is far slower",
                              ("auto", "torch", "pytorch3d"), False)
    views_root: str = _option("", "folder of thirteen views made elsewhere")
    logits: bool = _option(False, "cross-entropy on logits, the textbook way, not on the softmax output")
    epochs: int = _option(30, "epochs of each fold; SVMs have none", between=(1, 100_000))
    batch_size: int = _option(32, "images in a training batch", between=(1, 100_000))
    learning_rate: float = _option(1e-4, "Adam's learning rate in the first epoch", between=(1e-12, 10))
    lr_decay: float = _option(0.9, "factor on the learning rate after each epoch", between=(1e-6, 10))
    seed: int = _option(9, "seed of the run; each fold's seed comes from it and the subject",
                        between=(0, 2**32 - 1))
    quick: bool = _option(False, "small network and input, short training, for CPUs and first tries; marked "
                          "in the results; 28-pixel networks and SVMs are so already")
    pretrained: bool = _option(True, "start from ImageNet weights where they can be had", identity=False)
    weights: str = _option("", "start from this state dict, tensors matched by name", identity=False)
    skip_missing: bool = _option(False, "drop clips whose frames are not on disk instead of stopping",
                                 identity=False)
    precision: str = _option("auto", "arithmetic; auto: bf16 where the device computes it fast, else, "
                             "and for 28-pixel networks, fp32", ("auto", "fp32", "bf16"), False)
    deterministic: bool = _option(False, "only deterministic CUDA kernels (slower)")
    folds: str = _option("", "only folds a to b-1 of the subject list, as a:b (job arrays)", identity=False)
    device: str = _option("auto", "auto, cpu, cuda or cuda:N", identity=False)
    threads: int = _option(0, "CPU threads (0: all cores; 1 for --quick and 28-pixel networks); the same "
                           "number, the same results", identity=False, between=(0, 256))
    workers: int = _option(1, "folds trained at the same time (Ray tasks when more than one)", identity=False,
                           between=(1, 1024))
    ray_address: str = _option("", "address of a running Ray cluster", identity=False)
    save_models: bool = _option(False, "keep each fold's state dict, for predict.py and grad_cam_visual.py",
                                identity=False)
    tensorboard: bool = _option(True, "write TensorBoard event files", identity=False)
    data_root: str = _option("data", "folder of the databases", identity=False)
    result_root: str = _option("result", "folder of the results", identity=False)
    experiment: str = _option("", "name of the result folder (default: from the options)", identity=False)

    def __post_init__(self):
        object.__setattr__(self, "dataset", database_name(self.dataset))
        for option in dataclasses.fields(self):
            value, choices = getattr(self, option.name), option.metadata["choices"]
            low, high = option.metadata["between"] or (value, value)
            if not low <= value <= high:
                raise InputError(f"{_flag(option.name)} {value}: must be from {low} to {high}")
            if choices and value not in choices and value != option.default:
                raise InputError(f"{_flag(option.name)} {value}: choose from {', '.join(map(str, choices))}")
        check_list(self.dataset, self.classes, self.protocol, self.subset)
        if self.streams == "pictures" and self.paint == "motion":
            raise InputError("--streams pictures --paint motion: motion pictures and photographs do not mix; "
                             "use --streams views")
        if not re.fullmatch(r"|[0-9]{0,9}:[0-9]{0,9}", self.folds, re.ASCII):
            raise InputError(f"--folds {self.folds}: write a range of fold numbers as a:b, such as 0:8")
        plain_name(self.experiment_name, "--experiment")
        for given, unread in (("views_root", ("reconstructor", "rasterizer")),
                              ("motion", ("reconstructor", "rasterizer", "frames"))):
            for name in unread if getattr(self, given) not in ("", "frames") else ():
                if getattr(self, name) not in ("", "auto"):
                    raise InputError(f"{_flag(name)}: not read beside {_flag(given)} FOLDER, whose pictures "
                                     "are ready; leave it out")

    @property
    def identity(self):
        """dict of the options that are part of the experiment's identity (see `_option`)."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["identity"]}

    @property
    def experiment_name(self):
        """Name of the result folder: --experiment, or what tells the run from its siblings, seed last."""
        parts = [self.script.removeprefix("train_"), self.model, self.streams.replace("+", "-"),
                 self.paint if self.paint != "shape_detail" else "",
                 "given-views" if self.views_root else "", self.dataset,
                 "5class" if self.classes == 5 else "",
                 protocol_name(self.protocol) if self.protocol != "dsnca" else "",
                 self.subset if self.subset != "all" else "", "logits" if self.logits else "",
                 "quick" if self.quick else "",
                 "weights" if self.weights else "scratch" if not (self.pretrained or self.quick) else "",
                 f"seed{self.seed}"]
        return self.experiment or "-".join(filter(None, parts))


def _flag(name):
    return "--" + name.replace("_", "-")


def parse(doc, argv=None, model_choices=(), **constants):
    """Options from a script's constants, overridden by the command line.

    `doc`: the script's docstring, shown by --help. `constants`: defaults by field name; the options
    OF_A_SCRIPT exist only in scripts that give a value for them. `argv`: default sys.argv[1:].
    Exits with code 2 and one line when an option is unknown or malformed.
    """
    parser = Parser(prog=Path(sys.argv[0]).name, description=doc, allow_abbrev=False)
    for option in dataclasses.fields(Options):
        if option.name == "script" or (option.name in OF_A_SCRIPT and option.name not in constants):
            continue
        default = constants.get(option.name, option.default)
        arguments = {"default": default, "help": f"{option.metadata['help']} [{default}]".replace("%", "%%")}
        if isinstance(option.default, bool):
            arguments["action"] = argparse.BooleanOptionalAction
        else:
            arguments["type"] = type(option.default)
            choices = model_choices if option.name == "model" else option.metadata["choices"]
            arguments["choices"] = choices or None
        parser.add_argument(_flag(option.name), **arguments)
    given = parser.parse_args(argv)      # a first look: two options change others' defaults
    model = vars(given).get("model")
    if given.quick and not (model and Network(model, given.classes).is_small):
        parser.set_defaults(**QUICK_TRAINING)
    if database_name(given.dataset) == "synthetic":         # one clip list, whatever a script's PROTOCOL
        parser.set_defaults(protocol=Options.protocol)
    return Options(**{**constants, **vars(parser.parse_args(argv))})


def run(main, script, model_choices=(), **more):
    """Run a training script: parse the command line, call `main(options)`, print an InputError as one line.

    script: its `globals()`, for the docstring and the constants, each the default of the option of that name
    (EPOCHS of --epochs). more: defaults of options that have no constant, by name.
    Exit codes: 0 done; 1 some folds failed (main returned 1); 2 unusable input; 130 interrupted.
    """
    constants = {option.name: script[option.name.upper()] for option in dataclasses.fields(Options)
                 if option.name.upper() in script}
    name = Path(sys.argv[0]).stem
    run_main(lambda: main(parse(script["__doc__"], None, model_choices, script=name, **constants, **more)),
             GOES_ON)
