"""The result folder of one experiment: its configuration, its fold files, a lock for each fold."""

import contextlib
import datetime
import json
import platform
import subprocess
from pathlib import Path

import cv2
import filelock
import numpy
import sklearn
import torch
import torchvision

from capsule.results import one_line, read_fold
from common.cache import digest
from common.errors import InputError
from common.files import read_json, sweep, write_json
from common.tensors import save_tensors

ROOT = Path(__file__).parents[1]
PROGRAM = digest(*(path.read_bytes() for room in ("capsule", "common", "deca", "synthetic")
                   for path in sorted((ROOT / room).rglob("*.py"))))
CLIP_COLUMNS = ["data", "subject", "clip", "data_sub", "label"]
OF_EPOCHS = ("epochs", "batch_size", "learning_rate", "lr_decay")      # which an SVM has not
# Options on where clips and pictures lie: kept to find them again, no part of the identity.
PLACES = ("protocol", "motion", "views_root", "frames", "skip_missing")


class Experiment:
    """`<result_root>/<experiment>/` of one configuration; nothing is written before `start`.

    options: capsule.config.Options. clips: the clip table. streams: list of FrameImages. network:
    capsule.modules.Network. weights: what training starts from (`Network.make`). precision: "fp32" or "bf16".
    said: remarks on the network.
    Attributes: `folds`, every held-out subject (data_sub) in table order; `chosen`, those of --folds;
    `identity`, the JSON by which two configurations are the same. Raises: InputError when the clip list has
    fewer than two subjects or --folds chooses none.
    """

    def __init__(self, options, clips, streams, network, weights, precision, said=()):
        self.options, self.clips, self.network, self.weights = options, clips, network, weights
        self.name = options.experiment_name
        self.folder = Path(options.result_root) / self.name
        self.folds = list(clips.subjects)
        if len(self.folds) < 2:
            raise InputError(f"{options.dataset}: the clip list has {len(self.folds)} subject(s); leaving "
                             "one subject out needs at least two: add subjects or choose another --dataset")
        first, _, last = options.folds.partition(":")
        self.chosen = self.folds[int(first or 0):int(last or len(self.folds))]
        if not self.chosen:
            raise InputError(f"--folds {options.folds}: selects no fold; there are {len(self.folds)}, from 0")
        said = [*clips.notes.get("said", ()), *(one for stream in streams for one in stream.said), *said]
        self.said = [one for number, one in enumerate(said) if one not in said[:number]]     # each once
        made = next((stream.rule for stream in streams if "reconstructor" in stream.rule), {})
        self.reconstructor, self.model_files = made.get("reconstructor"), made.get("model", {})
        # All that changes the numbers, each a word or a digest that a person can compare. A user's clip list
        # or folder counts by its contents ("clip list" or a digest), not by its path.
        given = {name: stream.rule[name] for stream in streams for name in ("motion", "views_root")
                 if name in stream.rule}
        told = {name: value for name, value in options.identity.items()
                if network.loss or name not in OF_EPOCHS}
        self.identity = json.loads(json.dumps({
            **told, "protocol": Path(options.protocol).name, **given,
            "asked": network.asked, "weights": weights, "precision": precision, "clip list": clips.identity,
            "frames": digest(streams[0].names, streams[0].pixels),
            "inputs": [{"kind": stream.kind, **stream.rule} for stream in streams]}))

    def start(self):
        """Write experiment.json. Raises: InputError when the folder holds another configuration."""
        sweep(self.folder)
        with self.fold_lock("experiment", timeout=-1):
            path = self.folder / "experiment.json"
            if path.exists():
                self._compare(read_json(path).get("config"), path)
            write_json(path, self._description())    # again: `places` may have changed

    def _description(self):
        """The value of experiment.json: all that get_result_log.py needs besides the folds' files."""
        return {"experiment": self.name, "script": self.options.script, "dataset": self.options.dataset,
                "places": {name: getattr(self.options, name) for name in PLACES},
                "synthetic": self.options.dataset == "synthetic", "classes": self.clips.n_classes,
                "class_names": list(self.clips.class_names), "seed": self.options.seed,
                "quick": self.options.quick, "reconstructor": self.reconstructor,
                "pretrained": self.weights != "none",
                "weights": {"asked": self.network.asked, "found": self.weights}, "notes": self.said,
                "config": self.identity, "clips": self.clips.table[CLIP_COLUMNS].to_dict("records"),
                "folds": self.folds}

    def _compare(self, stored, path):
        """Raise InputError when `stored`, a configuration on disk, is not this run's."""
        stored = stored if isinstance(stored, dict) else {}
        found = [one for n in sorted(set(stored) | set(self.identity))
                 for one in unlike(n, stored.get(n), self.identity.get(n))]
        if found:
            what = "; ".join(f"{name}: {one_line(json.dumps(there, sort_keys=True))} there, "
                             f"{one_line(json.dumps(now, sort_keys=True))} now" for name, there, now in found)
            raise InputError(f"{path}: this folder holds another configuration ({what}); choose another "
                             "--experiment name or remove the folder")

    def fold_path(self, data_sub):
        """Path of a fold's result file."""
        return self.folder / "folds" / f"{data_sub}.json"

    def finished(self, data_sub, say=lambda line: None):
        """The fold as capsule.results.Fold; None where it is to be trained: there is no file, one that is
        not whole or not of this experiment (`say` is told), or no model though --save-models asks for it."""
        path = self.fold_path(data_sub)
        if not path.exists():
            return None
        facts = {"experiment": self.name, "config": self.identity, "classes": self.clips.n_classes}
        try:
            fold = read_fold(path, data_sub, facts, self.clips.table)
        except InputError as error:
            say(f"{error}; the fold is trained again")
            return None
        return fold if model_path(self, data_sub).exists() or not self.options.save_models else None

    def save(self, data_sub, result, model, device):
        """Write a finished fold: with --save-models its model, then its JSON, by which it counts as done."""
        if self.options.save_models:
            save_tensors(model_path(self, data_sub), model.state_dict())
        with contextlib.suppress(OSError):      # none is there, or a stale one stays: the fold counts
            self._failure(data_sub).unlink()
        write_json(self.fold_path(data_sub), {
            "experiment": self.name, "data_sub": data_sub, "seed": self.options.seed, "config": self.identity,
            "reconstructor": self.reconstructor, "pretrained": self.weights != "none",
            "environment": environment(device),
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"), **result})

    def save_failure(self, data_sub, seed, reason):
        """Write down, under failed/, that a fold could not be trained; the next run tries it again."""
        write_json(self._failure(data_sub), {"data_sub": data_sub, "fold_seed": seed, "reason": reason})

    def _failure(self, data_sub):
        return self.folder / "failed" / f"{data_sub}.json"

    @contextlib.contextmanager
    def fold_lock(self, data_sub, timeout=0):
        """Context manager: True with the fold's lock held, False when another process still holds it after
        `timeout` seconds (-1: wait for ever).

        The operating system frees the lock of a process that dies. Raises: InputError for an unusable file.
        """
        lock = filelock.FileLock(self.folder / "locks" / f"{data_sub}.lock")
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout)
        except filelock.Timeout:
            yield False
            return
        except OSError as error:
            raise InputError(f"{lock.lock_file}: cannot be locked ({error.strerror}); remove it, or choose a "
                             "--result-root that you may write to") from error
        try:
            yield True
        finally:
            lock.release()


def unlike(name, there, now):
    """(name, there, now) of the innermost JSON values that differ between two of the same build."""
    pairs = [dict(enumerate(one)) if isinstance(one, list) else one for one in (there, now)]
    if all(isinstance(one, dict) for one in pairs) and pairs[0].keys() == pairs[1].keys():
        return [one for key in pairs[0] for one in unlike(f"{name} {key}", *(p[key] for p in pairs))]
    return [] if there == now else [(name, there, now)]


def model_path(run, data_sub):
    """Where --save-models keeps the fold's state dict. run: an Experiment, or a capsule.results.Run."""
    return run.folder / "models" / f"{data_sub}.pt"


def environment(device):
    """dict of what numbers may depend on besides the configuration: versions, device, threads, program."""
    return {"python": platform.python_version(), "torch": torch.__version__,
            **{library.__name__: library.__version__ for library in (torchvision, numpy, sklearn, cv2)},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
            "device_type": device.type, "threads": torch.get_num_threads(),
            "tf32": bool(device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32),
            "program": PROGRAM, "git_commit": _git_commit()}


def _cpu():
    """The CPU's name; its architecture where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return one_line(line.partition(":")[2])
    return platform.machine() + " CPU"


def _git_commit():
    """Commit of this checkout, 40 hex digits, with "+" when files differ from it; None outside one."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*",
               "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
