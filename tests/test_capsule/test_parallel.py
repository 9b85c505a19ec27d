"""Folds in parallel: workers that die, folds that others hold, clusters that are not there."""

import os
import signal
import socket
import threading
import time

import pytest
import ray
import torch

from benchmarks.generated import configured, generated
from capsule import parallel
from capsule.experiment import Experiment
from capsule.loss import me_loss
from capsule.run import Trainer, train_in_turn
from common.errors import InputError
from tests.scripts import folds

SUBJECTS, PATIENCE = 3, 90    # seconds before a test gives up


@pytest.fixture(scope="module")
def data():
    return generated([3] * SUBJECTS, size=152)


def _experiment(data, folder, **options):
    config = configured(folder, **{"quick": True, "epochs": 1, "device": "cpu", "precision": "fp32",
                                   "threads": 1, "workers": 2, **options})
    experiment = Experiment(config, data[0], {})
    experiment.start()
    return experiment


def small_network():
    """Much smaller than --quick."""
    def make():
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.AvgPool2d(19), torch.nn.Flatten(), torch.nn.Linear(192, 3),
                                   torch.nn.Sigmoid())
    return make


def _train(experiment, data, loss=me_loss, todo=None):
    return parallel.train_in_parallel(experiment, todo or experiment.folds, data[1], small_network(), loss)


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
    folder.mkdir()
    killer = threading.Thread(target=_kill, args=(folder, times))
    killer.start()
    try:
        return _train(experiment, data, _killed_in_its(times, folder), todo)
    finally:
        killer.join()


def test_the_fold_of_a_killed_worker_is_run_again_and_the_numbers_stay(data, tmp_path):
    turn = _experiment(data, tmp_path / "turn")
    trainer = Trainer(turn, data[1], small_network(), me_loss, torch.device("cpu"))
    assert train_in_turn(turn, turn.folds, trainer) == {}
    killed = _experiment(data, tmp_path / "killed")
    handler = signal.getsignal(signal.SIGTERM)
    assert _with_kills(killed, data, tmp_path / "pids", times=1) == {}
    assert len(folds(tmp_path / "turn")) == SUBJECTS
    assert folds(tmp_path / "turn") == folds(tmp_path / "killed")
    assert signal.getsignal(signal.SIGTERM) is handler    # Ray would end without a word, exit code 15


def test_a_fold_that_kills_every_worker_is_given_up_and_the_others_are_trained(data, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "RETRIES", 0)
    experiment = _experiment(data, tmp_path, workers=1)
    todo = experiment.folds[:2]
    failed = _with_kills(experiment, data, tmp_path / "pids", times=1, todo=todo)
    (name,) = failed
    assert "its worker process died 1 times" in failed[name]
    assert {value["data_sub"] for value in folds(tmp_path).values()} == set(todo) - {name}


def test_a_fold_that_another_run_holds_is_waited_for(data, tmp_path):
    experiment = _experiment(data, tmp_path, workers=1)
    held, asked = experiment.folds[0], []

    def loss(outputs, labels):
        if not (tmp_path / "others_train").exists():
            (tmp_path / "others_train").write_text("yes")
        return me_loss(outputs, labels)

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
    assert _train(experiment, data, loss, todo) == {}
    holder.join()
    assert experiment.fold_path(held).stat().st_mtime > (tmp_path / "others_train").stat().st_mtime + 1.5
    assert {value["data_sub"] for value in folds(tmp_path).values()} == set(todo)


def test_what_a_worker_raises_reaches_the_user_as_one_line(data, tmp_path):
    def loss(outputs, labels):
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    experiment = _experiment(data, tmp_path)
    words = f"^fold {experiment.folds[0]}: the GPU's memory is full with --workers 2; use fewer, or a smaller"
    with pytest.raises(InputError, match=words) as caught:
        _train(experiment, data, loss, experiment.folds[:1])
    assert "\n" not in str(caught.value)
    assert not ray.is_initialized()


def _addresses():
    """Nothing listens; something listens and is silent; a name that is none."""
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    free = socket.socket()
    free.bind(("127.0.0.1", 0))    # bound and not listening: connections are refused
    return (silent, free), [f"127.0.0.1:{free.getsockname()[1]}", f"127.0.0.1:{silent.getsockname()[1]}",
                            f"ray://127.0.0.1:{silent.getsockname()[1]}", "127.0.0.1:port"]


def test_an_address_where_no_cluster_answers_gives_one_line_soon(data, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "ANSWER_TIMEOUT", 0.3)
    sockets, addresses = _addresses()
    for address in addresses:
        experiment = _experiment(data, tmp_path, ray_address=address)
        with pytest.raises(InputError, match=f"--ray-address {address}: Ray does not start there") as caught:
            _train(experiment, data)
        assert "\n" not in str(caught.value) and "--workers 1" in str(caught.value)
    for each in sockets:
        each.close()
    assert folds(tmp_path) == {}


def test_a_numbered_gpu_is_refused(data, tmp_path):
    experiment = _experiment(data, tmp_path)
    object.__setattr__(experiment.config, "device", "cuda:1")
    with pytest.raises(InputError, match="use --device cuda, with CUDA_VISIBLE_DEVICES=1"):
        _train(experiment, data)


@pytest.mark.parametrize(("gpus", "count", "part"), [(1, 4, 0.25), (2, 3, 0.5), (8, 2, 1), (None, 5, 0.2)])
def test_workers_share_the_gpus_evenly(gpus, count, part, data, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "choose_device", torch.device)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {} if gpus is None else {"GPU": float(gpus)})
    config = _experiment(data, tmp_path).config
    object.__setattr__(config, "device", "cuda")
    share = parallel._share(config, count)
    assert share["num_gpus"] == part and share["num_cpus"] > 0
    assert count * share["num_gpus"] <= (gpus or 1)
