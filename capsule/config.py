"""One configuration for every script: constants of the script, overridden from the command line."""

import argparse
import dataclasses
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError

DATASETS = ("casme", "smic", "samm", "composite", "synthetic")
QUICK_INPUT_SIZE, FULL_INPUT_SIZE = 152, 224  # 152 leaves 2x2 primary capsules
QUICK_WIDTH, FULL_WIDTH = 0.25, 1.0
# A small network starts from random weights and sees few clips: more and larger steps, fewer epochs.
QUICK_TRAINING = {"epochs": 6, "batch_size": 8, "learning_rate": 5e-4, "lr_decay": 0.8}


def _option(default, text, choices=None, identity=True):
    """A field that is also a command-line option. `identity`: a change of it changes the numbers."""
    return field(default=default, metadata={"help": text, "choices": choices, "identity": identity})


@dataclass(frozen=True)
class Config:
    """Everything a run is told. `script` and `experiment` name it; the rest are options of the same name."""

    script: str = field(default="", metadata={"identity": True})
    dataset: str = _option("composite", "database, or the composite of the three real ones", DATASETS)
    classes: int = _option(3, "3 (negative, positive, surprise) or 5 (CASME II only)", (3, 5))
    protocol: str = _option(
        "dsnca", "clip list: the reference's own, or the MEGC 2019 challenge's", ("dsnca", "megc2019")
    )
    subset: str = _option("all", "all clips, or only the subjects filmed with glasses", ("all", "glasses"))
    model: str = _option("", "network to train")
    reconstructor: str = _option(
        "auto",
        "what makes the views: DECA's official files, the landmark fit, or DECA where its files are there",
        ("auto", "deca", "landmarks"),
    )
    logits: bool = _option(False, "cross-entropy on logits, the textbook way, not on the softmax output")
    epochs: int = _option(30, "epochs of each fold")
    batch_size: int = _option(32, "images in a training batch")
    learning_rate: float = _option(1e-4, "Adam's learning rate in the first epoch")
    lr_decay: float = _option(0.9, "factor on the learning rate after each epoch")
    seed: int = _option(9, "seed of the run; each fold's seed comes from it and the subject")
    quick: bool = _option(False, "small network and input, short training, for CPUs and first tries; marked "
                          "in the results")
    pretrained: bool = _option(True, "start from ImageNet weights where they can be had")
    skip_missing: bool = _option(False, "drop clips whose apex frame is not on disk instead of stopping")
    precision: str = _option(
        "auto", "arithmetic: bf16 where the device computes it fast, else fp32", ("auto", "fp32", "bf16")
    )
    deterministic: bool = _option(False, "only deterministic CUDA kernels (slower)")
    folds: str = _option("", "only folds a to b-1 of the subject list, as a:b (job arrays)", identity=False)
    device: str = _option("auto", "auto, cpu, cuda or cuda:N", identity=False)
    threads: int = _option(
        0, "CPU threads (0: all cores, 1 for --quick); the same number, the same results", identity=False
    )
    workers: int = _option(1, "folds trained at the same time (Ray tasks when more than one)", identity=False)
    ray_address: str = _option("", "address of a running Ray cluster", identity=False)
    save_models: bool = _option(False, "keep each fold's state dict, for grad_cam_visual.py", identity=False)
    tensorboard: bool = _option(True, "write TensorBoard event files", identity=False)
    data_root: str = _option("data", "folder of the databases", identity=False)
    result_root: str = _option("result", "folder of the results", identity=False)
    experiment: str = _option("", "name of the result folder (default: from the options)", identity=False)

    def __post_init__(self):
        _check(self)

    @property
    def input_size(self):
        """Side of the network's square input, pixels."""
        return QUICK_INPUT_SIZE if self.quick else FULL_INPUT_SIZE

    @property
    def freeze(self):
        """Whether the backbone's first layers are left out of training: only pretrained ones are worth it."""
        return self.pretrained and not self.quick

    @property
    def cpu_threads(self):
        """CPU threads of the training process, 0 for all cores; a small network gains nothing from two."""
        return self.threads or (1 if self.quick else 0)

    @property
    def width(self):
        """Share of the full network's channels."""
        return QUICK_WIDTH if self.quick else FULL_WIDTH

    @property
    def identity(self):
        """dict of the options whose change would change the numbers."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["identity"]}

    @property
    def experiment_name(self):
        """Name of the result folder: what tells this run from its siblings, the seed last."""
        if self.experiment:
            return self.experiment
        parts = [
            self.script.removeprefix("train_"),
            self.model,
            self.dataset,
            "5class" if self.classes == 5 else "",
            self.protocol if self.protocol != "dsnca" else "",
            self.subset if self.subset != "all" else "",
            "logits" if self.logits else "",
            "quick" if self.quick else "",
            f"seed{self.seed}",
        ]
        return "-".join(part for part in parts if part)


def _check(config):
    """Raise InputError for option values that no run could use."""
    positive = ("epochs", "batch_size", "workers", "learning_rate", "lr_decay")
    for name in positive:
        if not getattr(config, name) > 0:
            raise InputError(f"{_flag(name)} {getattr(config, name)}: must be more than 0")
    if config.classes == 5 and config.dataset != "casme":
        raise InputError(
            f"--classes 5 --dataset {config.dataset}: only casme has a 5-class protocol; use --classes 3"
        )
    if config.protocol == "megc2019" and config.classes == 5:
        raise InputError("--protocol megc2019 --classes 5: MEGC 2019 has three classes; use --protocol dsnca")
    if Path(config.experiment).name != config.experiment:
        raise InputError(f"--experiment {config.experiment}: must be a plain folder name")
    if config.dataset != "synthetic" and not Path(config.data_root).is_dir():
        raise InputError(
            f"--data-root {config.data_root}: no such folder; put the databases there as "
            "data/README.md says, or try --dataset synthetic"
        )


def _flag(name):
    return "--" + name.replace("_", "-")


class _Parser(argparse.ArgumentParser):
    """argparse, with one line in place of the usage block when an option is wrong."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def parse(doc, argv=None, model_choices=(), **constants):
    """A Config from a script's constants, overridden by the command line.

    `doc`: the script's docstring, shown by --help. `constants`: defaults by field name; the options
    `model`, `reconstructor` and `logits` exist only in scripts that give a value for them. `argv`: default
    sys.argv[1:].
    Exits with code 2 and one line when an option is unknown or malformed.
    """
    parser = _Parser(
        prog=Path(sys.argv[0]).name, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    hidden = {"script"} | ({"model", "reconstructor", "logits"} - set(constants))
    for option in dataclasses.fields(Config):
        if option.name in hidden:
            continue
        default = constants.get(option.name, option.default)
        arguments = {"default": default, "help": f"{option.metadata['help']} [{default}]".replace("%", "%%")}
        if isinstance(option.default, bool):
            arguments["action"] = argparse.BooleanOptionalAction
        else:
            arguments["type"] = type(option.default)
            arguments["choices"] = model_choices if option.name == "model" else option.metadata["choices"]
        parser.add_argument(_flag(option.name), **arguments)
    if parser.parse_args(argv).quick:
        parser.set_defaults(**QUICK_TRAINING)
    return Config(**{**constants, **vars(parser.parse_args(argv))})


def run(main, doc, model_choices=(), **constants):
    """Run a training script: parse, call `main(config)`, turn errors meant for a person into one line.

    Exit codes: 0 done; 1 some folds failed (main returned 1); 2 unusable input; 130 interrupted.
    """
    script = Path(sys.argv[0]).stem
    run_main(lambda: main(parse(doc, None, model_choices, script=script, **constants)))


def run_main(main):
    """Call `main()` and exit with its return value; print errors that carry `exit_code` as one line.

    Ctrl-C and SIGTERM end with one line that says how to go on, exit code 130.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        print("\nstopped; what is finished is kept: run the same command again to go on", file=sys.stderr)
        code = 130
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    sys.exit(code)


def _interrupt(signum, frame):
    raise KeyboardInterrupt
