"""Folds in parallel: Ray workers, several on one GPU, on several GPUs or on a cluster."""

import copy
import dataclasses
import os

import torch
from tqdm import tqdm

from capsule.device import choose_device
from capsule.loso import Trainer, train_one
from common.errors import InputError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported
import ray
from ray.exceptions import RayActorError

# Each worker has as many threads as a run in turn would (that keeps the numbers), together more than the
# cores: idle threads must sleep, not spin.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
RETRIES = 3  # how often a fold is run again after its worker process died
STORE_SLACK = 2**28  # bytes of shared memory besides the images


def train_in_parallel(experiment, todo, streams, make_model, loss):
    """Train the folds `todo`, `config.workers` at a time; otherwise like `loso.train_in_turn`.

    A fold whose worker dies is run again. The numbers are those of training in turn on the same device type
    (on a CPU with as many threads, which is why the workers do not divide the cores among themselves).
    Returns: dict of the folds that failed → reason. Raises: InputError when no cluster is at --ray-address.
    """
    config = experiment.config
    count = min(config.workers, len(todo))
    _start(config, streams)
    try:
        progress = _Progress.options(num_cpus=0).remote()
        shared = ray.put(_portable(experiment, streams, make_model, loss))
        options = {"max_restarts": RETRIES, "max_task_retries": RETRIES, "runtime_env": {"env_vars": PASSIVE}}
        make_worker = _Worker.options(**options, **_share(config, count)).remote
        workers = [make_worker(shared, progress) for _ in range(count)]
        return _distribute(todo, workers, progress, config.epochs)
    finally:
        ray.shutdown()


def _start(config, streams):
    """Connect to --ray-address, or start Ray on this machine with shared memory enough for the images."""
    size = sum(stream.images.numel() for stream in streams) + STORE_SLACK
    local = {"address": "local", "include_dashboard": False, "object_store_memory": size,
             "num_cpus": os.cpu_count(), "num_gpus": torch.cuda.device_count()}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR",
                 **({"address": config.ray_address} if config.ray_address else local))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--ray-address {config.ray_address or 'local'}: Ray does not start there ({error}); "
            "check the address or use --workers 1"
        ) from error


def _share(config, count):
    """The part of the machine that one worker claims: a fraction of a GPU, or of the cores."""
    if choose_device(config.device).type == "cuda":
        gpus = max(1, int(ray.cluster_resources().get("GPU", 1)))
        per_gpu = -(-count // gpus)  # workers on the fullest GPU
        return {"num_gpus": 1 / per_gpu, "num_cpus": 1e-3}
    return {"num_cpus": 1e-3}


def _portable(experiment, streams, make_model, loss):
    """What a worker needs, with absolute paths, and images as arrays, which Ray shares without copying."""
    experiment = copy.copy(experiment)
    experiment.folder = experiment.folder.resolve()
    arrays = [dataclasses.replace(stream, images=stream.images.cpu().numpy()) for stream in streams]
    return experiment, arrays, make_model, loss


def _distribute(todo, workers, progress, epochs):
    """Hand each fold to a free worker until none is left. Returns: dict of failed folds → reason."""
    waiting, free, running, failed = list(todo), list(workers), {}, {}
    with tqdm(total=len(todo) * epochs, desc=f"epochs of {len(todo)} folds", unit="epoch") as bar:
        while waiting or running:
            while waiting and free:
                worker, data_sub = free.pop(), waiting.pop(0)
                running[worker.train.remote(data_sub)] = worker, data_sub
            ready, _ = ray.wait(list(running), timeout=0.5)
            bar.set_postfix_str(f"{len(running)} folds at work, {len(waiting)} waiting", refresh=False)
            bar.n = ray.get(progress.count.remote())
            bar.refresh()
            for reference in ready:
                worker, data_sub = running.pop(reference)
                state = _outcome(reference)
                if state == "busy":
                    waiting.append(data_sub)
                elif state != "done":
                    failed[data_sub] = state
                free.append(worker)
    return failed


def _outcome(reference):
    """How a fold ended, as `loso.train_one` says it."""
    try:
        return ray.get(reference)
    except RayActorError:
        return f"its worker process died {RETRIES + 1} times (out of memory? use fewer --workers)"


@ray.remote
class _Progress:
    """The furthest epoch of each fold, for the one progress bar."""

    def __init__(self):
        self.epochs = {}

    def add(self, data_sub, epoch):
        self.epochs[data_sub] = epoch + 1

    def count(self):
        return sum(self.epochs.values())


@ray.remote
class _Worker:
    """A process that trains one fold at a time, its images on its device from fold to fold."""

    def __init__(self, shared, progress):
        experiment, arrays, make_model, loss = shared
        streams = [dataclasses.replace(stream, images=torch.tensor(stream.images)) for stream in arrays]
        self.experiment = experiment
        self.trainer = Trainer(
            experiment,
            streams,
            make_model,
            loss,
            choose_device(experiment.config.device),
            report=progress.add.remote,
        )

    def train(self, data_sub):
        return train_one(self.experiment, data_sub, self.trainer)
