"""Folds in parallel: Ray workers, several on one GPU, on several GPUs or on a cluster."""

import collections
import copy
import dataclasses
import functools
import os
import signal
import socket
import threading
import time
import warnings

import torch
from tqdm import tqdm

from capsule.device import choose_device
from capsule.run import Trainer, train_one
from common.errors import InputError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray will do; else it warns each time
import ray
from ray.exceptions import RayError, RayTaskError

# Each worker has as many threads as a run in turn would (that keeps the numbers), together more than the
# cores: idle threads must sleep, not spin.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
RETRIES = 3  # how often a fold is run again after its worker process died
STORE_SLACK = 2**28  # bytes of shared memory besides the images
ANSWER_TIMEOUT = 5.0  # seconds for a first answer at --ray-address; Ray itself would try for minutes
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # with empty settings
DIED = "died"


def train_in_parallel(experiment, todo, streams, make_model, loss):
    """Train the folds `todo`, `config.workers` at a time; otherwise like `loso.train_in_turn`.

    A fold whose worker dies is run again, by a new one. The numbers are those of training in turn on the same
    device type (on a CPU with as many threads, which is why the workers do not divide the cores among
    themselves).
    Returns: dict of the folds that failed → reason. Raises: InputError when no cluster is at --ray-address,
    or for one numbered GPU (Ray gives out the GPUs).
    """
    config = experiment.config
    count = min(config.workers, len(todo))
    if ":" in config.device:
        raise InputError(f"--device {config.device} --workers {config.workers}: Ray gives out the GPUs; use "
                         f"--device cuda, with CUDA_VISIBLE_DEVICES={config.device.partition(':')[2]}")
    _start(config, streams)
    try:
        progress = _Progress.options(num_cpus=0).remote()
        shared = ray.put(_portable(experiment, streams, make_model, loss))
        kind = _Worker.options(runtime_env={"env_vars": PASSIVE}, **_share(config, count))
        return _distribute(todo, functools.partial(kind.remote, shared, progress), count, progress,
                           config.epochs)
    finally:
        ray.shutdown()


def _start(config, streams):
    """Connect to --ray-address, or start Ray on this machine with shared memory enough for the images."""
    size = sum(stream.images.numel() for stream in streams) + STORE_SLACK
    local = {"address": "local", "include_dashboard": False, "object_store_memory": size,
             "num_cpus": os.cpu_count(), "num_gpus": torch.cuda.device_count()}
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        if ":" in config.ray_address:
            _ask(config.ray_address)
        ray.init(log_to_driver=False, logging_level="ERROR",
                 **({"address": config.ray_address} if config.ray_address else local))
    except (OSError, ValueError, RuntimeError) as error:    # ConnectionError is an OSError
        raise InputError(
            f"--ray-address {config.ray_address or 'local'}: Ray does not start there "
            f"({' '.join(str(error).split())}); check the address or use --workers 1"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)    # ray.init puts its own there


def _ask(address):
    """Raise OSError or ValueError when "host:port" or "ray://host:port" does not answer as gRPC does."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT) as connection:
        connection.sendall(HTTP2_HELLO)
        connection.recv(1)


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


def _distribute(todo, make_worker, count, progress, epochs):
    """Hand each fold to a free one of `count` workers until none is left. Returns: failed folds → reason."""
    waiting, running, failed, deaths = list(todo), {}, {}, collections.Counter()
    free = [make_worker() for _ in range(count)]
    with tqdm(total=len(todo) * epochs, desc=f"epochs of {len(todo)} folds", unit="epoch") as bar:
        while waiting or running:
            while waiting and free:
                worker, data_sub = free.pop(), waiting.pop(0)
                running[worker.train.remote(data_sub)] = worker, data_sub
            ready, _ = ray.wait(list(running), timeout=0.5)
            states = {reference: _outcome(reference) for reference in ready}
            for reference, state in states.items():
                worker, data_sub = running.pop(reference)
                deaths[data_sub] += state == DIED
                if state == "done":
                    progress.add.remote(data_sub, epochs - 1)    # another run may have trained it
                elif state == "busy" or (state == DIED and deaths[data_sub] <= RETRIES):
                    waiting.append(data_sub)
                else:
                    failed[data_sub] = _reason(state)
                free.append(make_worker() if state == DIED else worker)
            done = ray.get(progress.count.remote())
            if states or done != bar.n:    # a log file would fill with lines that say nothing new
                bar.n = done
                bar.set_postfix_str(f"{len(running)} folds at work, {len(waiting)} waiting")
            if set(states.values()) == {"busy"}:
                time.sleep(1.0)    # another run is training them
    return failed


def _outcome(reference):
    """How a fold ended, as `loso.train_one` says it, or DIED. Raises what the worker raised."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except RayError:    # the process or its machine is gone
        return DIED


def _reason(state):
    died = f"its worker process died {RETRIES + 1} times (out of memory? use fewer --workers)"
    return died if state == DIED else state


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
        self.shared, self.progress, self.trainer = shared, progress, None

    def train(self, data_sub):
        """As `loso.train_one`. The trainer is made here, where an exception finds its way to the user."""
        experiment = self.shared[0]
        try:
            if self.trainer is None:
                self.trainer = self._make_trainer()
            return train_one(experiment, data_sub, self.trainer)
        except torch.OutOfMemoryError as error:
            raise InputError(f"fold {data_sub}: the GPU's memory is full with --workers "
                             f"{experiment.config.workers}; use fewer, or a smaller --batch-size") from error

    def _make_trainer(self):
        experiment, arrays, make_model, loss = self.shared
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")    # they are read-only, and nobody writes to them
            streams = [dataclasses.replace(stream, images=torch.from_numpy(stream.images))
                       for stream in arrays]
        device = choose_device(experiment.config.device)
        return Trainer(experiment, streams, make_model, loss, device, report=self.progress.add.remote)
