"""The folder of one experiment: its identity, its fold files, the lock of each fold."""

import contextlib
import datetime
import hashlib
import json
import platform
import subprocess
from pathlib import Path

import filelock
import torch
import torchvision

from common.errors import InputError
from common.files import read_json, whole_file, write_json


class Experiment:
    """`<result_root>/<experiment>/` of one configuration.

    `clips`: the clip table; `facts`: dict of what the run found out and that changes the numbers
    (reconstructor, pretrained, precision, images). `folds`: every held-out unit (data_sub) in table order.
    Raises: InputError when the folder already holds another configuration, or the clip list has one subject.
    """

    def __init__(self, config, clips, facts):
        self.config, self.clips, self.facts = config, clips, facts
        self.name = config.experiment_name
        self.folder = Path(config.result_root) / self.name
        self.folds = list(clips.subjects)
        if len(self.folds) < 2:
            raise InputError(
                f"{config.dataset}: the clip list has {len(self.folds)} subject(s); leaving one "
                "subject out needs at least two: add subjects or choose another --dataset"
            )
        self.identity = json.loads(json.dumps({**config.identity, **facts, "clip_list": _digest(clips)}))

    def start(self):
        """Write experiment.json, or check that the one there is of this configuration."""
        with self._lock("experiment"):
            path = self.folder / "experiment.json"
            if path.exists():
                self._compare(read_json(path).get("config", {}), path)
            else:
                write_json(path, self._description())

    def _description(self):
        """The value of experiment.json: everything get_result_log.py needs besides the folds."""
        columns = ["data", "subject", "clip", "data_sub", "label"]
        rows = [{**row, "label": int(row["label"])} for row in self.clips.table[columns].to_dict("records")]
        return {
            "experiment": self.name,
            "script": self.config.script,
            "dataset": self.config.dataset,
            "synthetic": self.config.dataset == "synthetic",
            "classes": self.clips.n_classes,
            "class_names": list(self.clips.class_names),
            "seed": self.config.seed,
            "quick": self.config.quick,
            "reconstructor": self.facts.get("reconstructor"),
            "pretrained": self.facts.get("pretrained"),
            "config": self.identity,
            "clips": rows,
            "folds": self.folds,
        }

    def _compare(self, stored, path):
        """Raise InputError when `stored`, a configuration on disk, is not this run's."""
        names = sorted(n for n in set(stored) | set(self.identity) if stored.get(n) != self.identity.get(n))
        if names:
            what = ", ".join(f"{n} {stored.get(n)!r} there, {self.identity.get(n)!r} now" for n in names)
            raise InputError(
                f"{path}: this folder holds another configuration ({what}); choose another "
                "--experiment name or remove the folder"
            )

    def chosen(self):
        """The folds that --folds a:b selects, in order. Raises: InputError for a malformed or empty range."""
        text = self.config.folds
        if not text:
            return self.folds
        first, colon, last = text.partition(":")
        if not colon or not all(part == "" or part.isdigit() for part in (first, last)):
            raise InputError(
                f"--folds {text}: write a range of fold numbers as a:b, such as 0:{len(self.folds)}"
            )
        folds = self.folds[int(first or 0) : int(last or len(self.folds))]
        if not folds:
            raise InputError(f"--folds {text}: selects no fold; there are {len(self.folds)}, from 0")
        return folds

    def fold_path(self, data_sub):
        """Where the result of a fold lies."""
        return self.folder / "folds" / f"{data_sub}.json"

    def model_path(self, data_sub):
        """Where --save-models keeps the fold's state dict."""
        return self.folder / "models" / f"{data_sub}.pt"

    def finished(self, data_sub):
        """Whether the fold's file is there and of this configuration, and its model if models are kept.

        Raises: InputError when the file is of another configuration or not readable.
        """
        path = self.fold_path(data_sub)
        if not path.exists():
            return False
        self._compare(read_json(path).get("config", {}), path)
        return self.model_path(data_sub).exists() or not self.config.save_models

    def save(self, data_sub, result, model):
        """Write a finished fold: its model first where models are kept, then its JSON, each a whole file."""
        if self.config.save_models:
            with whole_file(self.model_path(data_sub)) as temporary:
                torch.save({name: value.cpu() for name, value in model.state_dict().items()}, temporary)
        self._failure(data_sub).unlink(missing_ok=True)
        write_json(
            self.fold_path(data_sub),
            {
                "experiment": self.name,
                "data_sub": data_sub,
                "seed": self.config.seed,
                "config": self.identity,
                "reconstructor": self.facts.get("reconstructor"),
                "pretrained": self.facts.get("pretrained"),
                "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                **result,
            },
        )

    def save_failure(self, data_sub, seed, reason):
        """Note that a fold could not be trained; the next run tries it again."""
        write_json(self._failure(data_sub), {"data_sub": data_sub, "fold_seed": seed, "reason": reason})

    def _failure(self, data_sub):
        return self.folder / "failed" / f"{data_sub}.json"

    @contextlib.contextmanager
    def fold_lock(self, data_sub):
        """Context manager: True when this process may train the fold, False when another one is at it.

        The operating system drops the lock of a process that dies.
        """
        try:
            with self._lock(data_sub, timeout=0):
                yield True
        except filelock.Timeout:
            yield False

    def _lock(self, name, timeout=-1):
        folder = self.folder / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be made ({error.strerror}); choose a --result-root that you may write to"
            ) from error
        return filelock.FileLock(folder / f"{name}.lock", timeout=timeout)


def _digest(clips):
    """Short hash of the clip list: keys and labels in order."""
    text = "\n".join(f"{key} {label}" for key, label in zip(clips.keys, clips.labels, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fold_seed(seed, data_sub):
    """Seed of one fold, from the run's seed and the subject alone: whatever ran before, the same numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {data_sub}".encode()).digest()[:6], "big")


def environment(device, precision):
    """dict of what the numbers may depend on besides the configuration: versions, device, threads."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.machine() + " CPU",
        "device_type": device.type,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "tf32": bool(device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32),
        "git_commit": _git_commit(),
    }


def _git_commit():
    """Commit of this checkout, with "+" when files differ from it; None outside one."""

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
