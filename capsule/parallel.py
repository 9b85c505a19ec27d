"""Folds in parallel: Ray workers, several on one GPU, on several GPUs or on a cluster (docs/cluster.md)."""

import collections
import copy
import dataclasses
import functools
import os
import signal
import socket
import time
import warnings

import torch

from capsule.device import choose_precision
from capsule.fold import FoldError, Pictures, fold_seed, full_gpu_explained, train_one
from common.device import choose_device
from common.errors import InputError

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported
os.environ.setdefault("RAY_ENABLE_MAC_LARGE_OBJECT_STORE", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray will do; else it warns each time
import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

# Each worker has as many threads as a run in turn would (that keeps the numbers), together more than the
# cores: idle threads must sleep, not spin.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
RETRIES = 3  # how often a fold is run again after its worker process died
STORE_SLACK = 2**28  # bytes of shared memory besides the images
ANSWER_TIMEOUT = 5.0  # seconds for a connection to --ray-address; Ray itself would try for minutes
POLL = 0.5  # seconds between two looks at the workers


class Cluster:
    """Context manager: Ray on this machine, or the running cluster at --ray-address, started when needed.

    streams: the FrameImages that workers will share. Raises: InputError when Ray does not start or answer.
    """

    def __init__(self, options, streams):
        self.options, self.streams, self.gpus = options, streams, None
        if ":" in options.device:
            raise InputError(f"--device {options.device} with Ray workers: Ray gives out the GPUs; "
                             "use --device cuda, "
                             f"with CUDA_VISIBLE_DEVICES={options.device.partition(':')[2]}")
        if options.device != "cuda":        # which the head of a cluster may lack
            choose_device(options.device)

    def __enter__(self):
        return self

    def _start(self):
        """Start Ray, or connect to the cluster, unless that is done."""
        if self.gpus is not None:
            return
        address = self.options.ray_address
        size = sum(stream.images.numel() for stream in self.streams) + STORE_SLACK
        local = {"address": "local", "include_dashboard": False, "object_store_memory": size,
                 "num_cpus": os.cpu_count(), "num_gpus": torch.cuda.device_count()}
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            if ":" in address:
                host, _, port = address.rpartition("://")[2].rpartition(":")
                socket.create_connection((host.strip("[]"), int(port)), ANSWER_TIMEOUT).close()
            ray.init(log_to_driver=False, logging_level="ERROR",
                     **({"address": address} if address else local))
        except Exception as error:    # Ray raises a bare one on a machine too busy for it
            raise InputError(f"--ray-address {address or 'local'}: Ray does not start there "
                             f"({' '.join(str(error).split())[:200]}); "
                             "check the address or use --workers 1") from error
        signal.signal(signal.SIGTERM, on_terminate)    # ray.init puts its own there
        wanted = self.options.device in ("auto", "cuda")
        self.gpus = int(ray.cluster_resources().get("GPU", 0)) if wanted else 0
        if self.options.device == "cuda" and not self.gpus:
            ray.shutdown()
            raise InputError("--device cuda: the cluster has no GPU; use --device auto")

    def __exit__(self, *error):
        ray.shutdown()

    def precision(self):
        """The arithmetic of --precision on the device where folds will run: "fp32" or "bf16"."""
        if self.options.precision == "fp32":
            return "fp32"
        if not self.options.ray_address:
            return choose_precision(choose_device(self.options.device), self.options.precision)
        self._start()
        asked = ray.remote(choose_precision).options(num_cpus=1e-3, num_gpus=1e-3 if self.gpus else 0)
        try:
            return ray.get(asked.remote(torch.device("cuda" if self.gpus else "cpu"), self.options.precision))
        except RayTaskError as error:
            raise error.cause from None

    def share(self, count):
        """What one of `count` workers claims of the cluster: a fraction of a GPU, or next to nothing."""
        if self.gpus:
            return {"num_gpus": 1 / -(-count // self.gpus), "num_cpus": 1e-3}    # of the fullest GPU
        return {"num_cpus": 1e-3, "scheduling_strategy": "SPREAD"}

    def train(self, experiment, todo, training, log):
        """Train the folds `todo`, --workers at a time; otherwise like `run.train_in_turn`.

        A fold whose worker dies, or whose machine is lost, is run again by a new one. The numbers are those
        of training in turn on the same device type (on a CPU with as many threads, which is why the workers
        do not divide the cores among themselves). Returns: dict of the folds that failed → reason.
        """
        self._start()
        count = min(experiment.options.workers, len(todo))
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mail = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})    # no other machine's loss
        shared = ray.put(_portable(experiment, self.streams, training))
        kind = _Worker.options(runtime_env={"env_vars": PASSIVE}, **self.share(count))
        make_worker = functools.partial(kind.remote, shared, mail, bool(self.gpus))
        try:
            return _distribute(todo, make_worker, count, mail, experiment, log)
        except RayError as error:    # not a worker's end, which is mended, but the cluster's
            raise InputError(f"Ray at {self.options.ray_address or 'this machine'} is lost "
                             f"({type(error).__name__}); start it and this command again: finished folds stay"
                             ) from error


def _portable(experiment, streams, training):
    """What a worker needs, with absolute paths, and images as arrays, which Ray shares without copying."""
    experiment = copy.copy(experiment)
    experiment.folder = experiment.folder.resolve()
    arrays = [dataclasses.replace(stream, images=stream.images.cpu().numpy(), onsets=None)
              for stream in streams]
    return experiment, arrays, training


def _distribute(todo, make_worker, count, mail, experiment, log):
    """Hand each fold to a free one of `count` workers until none is left. Returns: failed folds → reason."""
    waiting, running, failed, deaths = list(todo), {}, {}, collections.Counter()
    free = [make_worker() for _ in range(count)]
    while waiting or running:
        while waiting and free:
            worker, data_sub = free.pop(), waiting.pop(0)
            running[worker.train.remote(data_sub)] = worker, data_sub
        ready, _ = ray.wait(list(running), timeout=POLL)
        for epoch in mail.get_nowait_batch(mail.qsize()):
            log.epoch(epoch)
        for reference in ready:
            worker, data_sub = running.pop(reference)
            try:
                ended = ray.get(reference)
            except RayTaskError as error:
                if not isinstance(error.cause, FoldError):    # which its worker wrote down
                    raise error.cause from None
                ended, failed[data_sub] = True, str(error.cause)
            except RayError as error:    # the process or its machine is gone
                worker = make_worker()
                deaths[data_sub] += 1
                ended = deaths[data_sub] > RETRIES
                if ended:
                    failed[data_sub] = (f"its worker process died {RETRIES + 1} times (out of memory? "
                                        "use fewer --workers)")
                    seed = fold_seed(experiment.options.seed, data_sub)
                    experiment.save_failure(data_sub, seed, failed[data_sub])
                else:
                    lost = "machine is lost" if "its node has died" in str(error) else "process is gone"
                    log.say(f"fold {data_sub}: its worker died (its {lost}); the fold is run again")
            free.append(worker)
            if ended:
                log.fold(data_sub, experiment.finished(data_sub))
            else:
                waiting.append(data_sub)
    return failed


@ray.remote
class _Worker:
    """A process that trains one fold at a time, its images on its device from fold to fold; it sends the
    epochs to the driver by `mail`."""

    def __init__(self, shared, mail, gpu):
        self.shared, self.mail, self.gpu, self.pictures = shared, mail, gpu, None

    def train(self, data_sub):
        """As `fold.train_one`, a second later where another run has the fold: it will be asked for again.

        The pictures are made ready here, where an exception finds its way to the user.
        """
        experiment, arrays, training = self.shared
        with full_gpu_explained(f"fold {data_sub}", experiment.options.workers):
            if self.pictures is None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")    # the arrays are read-only, and nobody writes to them
                    streams = [dataclasses.replace(a, images=torch.from_numpy(a.images)) for a in arrays]
                device = choose_device("cuda" if self.gpu else "cpu")
                self.pictures = Pictures(experiment.clips, streams, training.network, device)
            mine = train_one(experiment, data_sub, self.pictures, training, self.mail.put_nowait)
        if not mine:
            time.sleep(1.0)
        return mine
