"""Folds in parallel: workers that die, folds that others hold, clusters that are not there."""

import math
import os
import re
import signal
import socket
import threading
import time

import pytest
import ray
import torch
from ray.cluster_utils import Cluster as Nodes

from benchmarks.generated import generated
from capsule import parallel
from capsule.config import Options
from capsule.experiment import Experiment
from capsule.fold import Pictures, Training
from capsule.loss import me_loss
from capsule.run import Log, train_in_turn
from common.errors import InputError
from common.files import read_json
from tests.scripts import folds

SUBJECTS, PATIENCE = 3, 90    # seconds before a test gives up


@pytest.fixture(scope="module")
def data():
    return generated([3] * SUBJECTS, size=152)


class SmallNetwork:
    """As capsule.modules.Network, much smaller than --quick. `loss`: what a test wants to happen."""

    name, classes, side, asked = "small", 3, 152, "none"

    def __init__(self, loss=me_loss):
        self.loss = loss

    def make(self, channels=(3,)):
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.AvgPool2d(19), torch.nn.Flatten(), torch.nn.Linear(192, 3),
                                   torch.nn.Sigmoid()), "none"

    def prepared(self, inputs):
        return inputs

    def scores(self, outputs):
        return outputs


def _experiment(data, folder, loss=me_loss, **options):
    told = Options(script="test", dataset="synthetic", data_root=".", result_root=str(folder), quick=True,
                   tensorboard=False, **{"device": "cpu", "workers": 2, **options})
    experiment = Experiment(told, data[0], data[1], SmallNetwork(loss), "none", "fp32")
    experiment.start()
    return experiment


def _training(experiment):
    return Training(experiment.network, 1, 8, 5e-4, 0.8, 9, "fp32", 1)


def _train(experiment, data, todo=None):
    with parallel.Cluster(experiment.options, data[1]) as cluster:
        assert cluster.precision() in ("fp32", "bf16")
        return cluster.train(experiment, todo or experiment.folds, _training(experiment), Log(experiment, 1))


def _wait_for(path):
    """The text of the file at `path`, as soon as it is there."""
    end = time.monotonic() + PATIENCE
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.05)
    return path.read_text()


def _killed_in_its(epochs, folder):
    """A loss that waits to be killed in the first `epochs` fold epochs, saying its process's id in a file."""
    def loss(outputs, labels):
        for turn in range(epochs):
            try:
                with open(folder / f"{turn}.pid", "x") as file:
                    file.write(str(os.getpid()))
            except FileExistsError:
                continue
            time.sleep(PATIENCE)
        return me_loss(outputs, labels)
    return loss


def _kill(folder, times):
    """Kill the processes of `_killed_in_its`, one after the other."""
    for turn in range(times):
        os.kill(int(_wait_for(folder / f"{turn}.pid")), signal.SIGKILL)


def _with_kills(experiment, data, folder, times, todo=None):
    killer = threading.Thread(target=_kill, args=(folder, times))
    killer.start()
    try:
        return _train(experiment, data, todo)
    finally:
        killer.join()


def _killed(data, root, pids, times, **options):
    pids.mkdir()
    return _experiment(data, root, _killed_in_its(times, pids), **options)


def test_the_fold_of_a_killed_worker_is_run_again_and_the_numbers_stay(data, tmp_path, capsys):
    turn = _experiment(data, tmp_path / "turn")
    pictures = Pictures(data[0], data[1], turn.network, torch.device("cpu"))
    assert train_in_turn(turn, turn.folds, pictures, _training(turn), Log(turn, 1)) == {}
    killed = _killed(data, tmp_path / "killed", tmp_path / "pids", 1)
    handler = signal.getsignal(signal.SIGTERM)
    assert _with_kills(killed, data, tmp_path / "pids", times=1) == {}
    assert len(folds(tmp_path / "turn")) == SUBJECTS
    assert folds(tmp_path / "turn") == folds(tmp_path / "killed")
    assert signal.getsignal(signal.SIGTERM) is handler    # Ray would end without a word, exit code 15
    said = capsys.readouterr().out
    assert "its worker died" in said and "pooled over 3 folds (strict)" in said


def test_a_fold_that_kills_every_worker_is_given_up_and_the_others_are_trained(data, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "RETRIES", 0)
    experiment = _killed(data, tmp_path / "r", tmp_path / "pids", 1, workers=1)
    todo = experiment.folds[:2]
    failed = _with_kills(experiment, data, tmp_path / "pids", times=1, todo=todo)
    (name,) = failed
    assert "its worker process died 1 times" in failed[name]
    assert read_json(experiment.folder / "failed" / f"{name}.json")["reason"] == failed[name]
    assert {value["data_sub"] for value in folds(tmp_path / "r").values()} == set(todo) - {name}


def test_a_fold_that_another_run_holds_is_waited_for(data, tmp_path):
    def loss(outputs, labels):
        if not (tmp_path / "others_train").exists():
            (tmp_path / "others_train").write_text("yes")
        return me_loss(outputs, labels)

    experiment = _experiment(data, tmp_path / "r", loss, workers=1)
    held, asked = experiment.folds[0], []

    def hold(ready):
        with experiment.fold_lock(held) as mine:
            asked.append(mine)
            ready.set()
            _wait_for(tmp_path / "others_train")
            time.sleep(2.0)

    ready = threading.Event()
    holder = threading.Thread(target=hold, args=(ready,))
    holder.start()
    assert ready.wait(PATIENCE) and asked == [True]
    todo = experiment.folds[:2]
    assert _train(experiment, data, todo) == {}
    holder.join()
    assert experiment.fold_path(held).stat().st_mtime > (tmp_path / "others_train").stat().st_mtime + 1.5
    assert {value["data_sub"] for value in folds(tmp_path / "r").values()} == set(todo)


def test_what_a_worker_raises_reaches_the_user_as_one_line(data, tmp_path):
    def loss(outputs, labels):
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    experiment = _experiment(data, tmp_path, loss)
    words = f"^fold {experiment.folds[0]}: the GPU's memory is full with --workers 2; use fewer, or a smaller"
    with pytest.raises(InputError, match=words) as caught:
        _train(experiment, data, experiment.folds[:1])
    assert "\n" not in str(caught.value)
    assert not ray.is_initialized()


def test_a_fold_whose_loss_is_nan_is_named_and_noted(data, tmp_path):
    def loss(outputs, labels):
        return math.nan * outputs.sum()

    experiment = _experiment(data, tmp_path, loss, workers=1)
    todo = experiment.folds[:2]
    failed = _train(experiment, data, todo)
    assert sorted(failed) == sorted(todo) and folds(tmp_path) == {}
    for name, reason in failed.items():
        assert reason.startswith("the loss is nan in epoch 1 (fold seed")
        assert read_json(experiment.folder / "failed" / f"{name}.json")["reason"] == reason


def _addresses():
    """Nothing listens; a name that is none."""
    free = socket.socket()
    free.bind(("127.0.0.1", 0))    # bound and not listening: connections are refused
    return free, [f"127.0.0.1:{free.getsockname()[1]}", "127.0.0.1:port"]


def test_an_address_where_no_cluster_answers_gives_one_line(data, tmp_path):
    sockets, addresses = _addresses()
    for address in addresses:
        experiment = _experiment(data, tmp_path, ray_address=address)
        with pytest.raises(InputError, match=f"--ray-address {address}: Ray does not start there") as caught:
            _train(experiment, data)
        assert "\n" not in str(caught.value) and "--workers 1" in str(caught.value)
    sockets.close()
    assert folds(tmp_path) == {}


def test_a_machine_too_busy_for_ray_gives_one_line(data, tmp_path, monkeypatch):
    def late(**options):
        raise Exception("The current node timed out during startup. This could\nhappen because")

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(InputError, match=r"Ray does not start there \(The current node timed out") as caught:
        _train(_experiment(data, tmp_path), data)
    assert "--workers 1" in str(caught.value)


def test_a_numbered_gpu_is_refused(data, tmp_path):
    with pytest.raises(InputError, match="use --device cuda, with CUDA_VISIBLE_DEVICES=1"):
        _train(_experiment(data, tmp_path, device="cuda:1"), data)
    with pytest.raises(InputError, match="--device tpu: unknown"):
        _train(_experiment(data, tmp_path, device="tpu"), data)


@pytest.mark.parametrize(("gpus", "count", "part"), [(1, 4, 0.25), (2, 3, 0.5), (8, 2, 1), (0, 5, 0)])
def test_workers_share_the_gpus_of_the_cluster_evenly(gpus, count, part, data, tmp_path):
    """The driver's own device is not asked: it may have none."""
    cluster = parallel.Cluster(_experiment(data, tmp_path).options, data[1])
    cluster.gpus = gpus
    share = cluster.share(count)
    assert share.get("num_gpus", 0) == part and share["num_cpus"] > 0
    assert count * part <= (gpus or 1)


def _held_until(lost, doomed):
    """A loss that says its node's id in a file, and waits for the file `lost`; on the node `doomed` it never
    ends: a process outlives its node for a moment, and must not finish its fold in it."""
    def loss(outputs, labels):
        node = ray.get_runtime_context().get_node_id()
        (lost.parent / node).write_text("at work")
        _wait_for(lost)
        if node == doomed:
            time.sleep(PATIENCE)
            raise AssertionError("the doomed node's worker was never ended")
        return me_loss(outputs, labels)
    return loss


def test_the_fold_of_a_lost_machine_is_run_again_on_the_other_and_the_numbers_stay(data, tmp_path, capsys):
    turn = _experiment(data, tmp_path / "turn")
    pictures = Pictures(data[0], data[1], turn.network, torch.device("cpu"))
    assert train_in_turn(turn, turn.folds, pictures, _training(turn), Log(turn, 1)) == {}
    quickly = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500,
               "health_check_failure_threshold": 4}
    nodes = Nodes(initialize_head=True, head_node_args={
        "num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8, "_system_config": quickly})
    second = nodes.add_node(num_cpus=1, object_store_memory=10**8)

    def lose():
        for node in (second, nodes.head_node):      # both have a fold in hand
            _wait_for(tmp_path / node.node_id)
        nodes.remove_node(second, allow_graceful=False)
        (tmp_path / "lost").write_text("lost")

    losing = threading.Thread(target=lose)
    losing.start()
    try:
        two = _experiment(data, tmp_path / "two", _held_until(tmp_path / "lost", second.node_id),
                          ray_address=nodes.address)
        assert _train(two, data) == {}
    finally:
        losing.join()
        nodes.shutdown()
    said = capsys.readouterr().out      # the process is missed first, or the machine
    assert re.search(r"worker died \(its (machine is lost|process is gone)\); the fold is run again", said)
    assert len(folds(tmp_path / "turn")) == SUBJECTS and folds(tmp_path / "turn") == folds(tmp_path / "two")
