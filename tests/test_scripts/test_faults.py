"""Runs that are killed, shared or stopped end as if nothing had happened."""

import multiprocessing
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from capsule.data import load_clips
from capsule.inputs import face_crops
from capsule.inputs.motion import face_motion
from synthetic.database import make_synthetic
from tests.make_database import make_database
from tests.scripts import folds, run_script, start_script

SCRIPT = "train_me_loso_casme_3d_dual.py"
OPTIONS = ("--dataset", "casme", "--quick", "--epochs", "3", "--device", "cpu", "--no-tensorboard")
KILLS = 10


def _data(folder):
    return make_database(folder, "casme", subjects=3)


def _start(data_root, result_root):
    return start_script(SCRIPT, *OPTIONS, "--data-root", data_root, "--result-root", result_root)


def _tree(folder, *endings):
    """{path below `folder`: bytes} of its files with these endings."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*"))
            if path.suffix in endings and path.is_file() and not path.name.startswith(".")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Data and results of a run never interrupted, and how long it took."""
    data, result = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("result")
    began = time.monotonic()
    process = _start(_data(data), result)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return data, result, time.monotonic() - began


def test_killed_at_ten_random_moments(undisturbed, tmp_path, monkeypatch):
    data, result, seconds = undisturbed
    moments = random.Random(4)
    _data(tmp_path / "data")
    for _ in range(KILLS):
        process = _start(tmp_path / "data", tmp_path / "result")
        try:
            process.communicate(timeout=moments.uniform(0.3, 0.9) * seconds)
        except Exception:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    process = _start(tmp_path / "data", tmp_path / "result")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert len(folds(result)) == 3
    assert folds(tmp_path / "result") == folds(result)
    assert _tree(tmp_path / "data/views", ".jpg", ".json") == _tree(data / "views", ".jpg", ".json")
    for root in (result, tmp_path / "result"):
        assert run_script(monkeypatch, "get_result_log.py", "--result-root", root, "--no-figures") == 0
    assert _tree(tmp_path / "result", ".csv") == _tree(result, ".csv")


def _everything(folder):
    """{path below `folder`: bytes} of every file, leftovers too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*")
            if path.is_file()}


def _states(folder):
    """The pictures there, each with the moment it was written."""
    return {(path, path.stat().st_mtime_ns) for path in Path(folder).rglob("[0-9]*.png")}


def _write_motion(data_root):
    face_motion(face_crops(load_clips("synthetic", data_root)), "mesh", device="cpu")


def test_killed_while_it_writes_the_motion_cache(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    make_synthetic(whole, people=2, clips=3, frames=(7, 7))
    shutil.copytree(whole, killed)
    _write_motion(whole)
    motion, moments, cut = _everything(whole / "motion"), random.Random(6), 0
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    for _ in range(KILLS):
        before, some = _states(killed / "motion"), moments.randint(1, 7)
        process = processes.Process(target=_write_motion, args=(killed,))
        process.start()
        while process.is_alive() and len(_states(killed / "motion") - before) < some:
            time.sleep(0.001)
        process.kill()
        process.join()
        left = _everything(killed / "motion")
        for key in (name for name in left if name.endswith("/key.json")):        # finished clips are whole
            clip = {name for name in motion if Path(name).is_relative_to(Path(key).parent)}
            assert {name: left[name] for name in clip} == {name: motion[name] for name in clip}
        cut += any("key.json" not in {path.name for path in clip.iterdir()}
                   for clip in (killed / "motion").glob("mesh/frontal/synthetic/*/*"))
    _write_motion(killed)
    assert cut and _everything(killed / "motion") == motion


def test_get_result_log_killed_leaves_whole_files(undisturbed, tmp_path):
    _, result, _ = undisturbed
    moments = random.Random(5)
    for _ in range(3):
        process = start_script("get_result_log.py", "--result-root", result)
        time.sleep(moments.uniform(1.0, 4.0))
        process.kill()
        process.communicate()
    process = start_script("get_result_log.py", "--result-root", result)
    process.communicate(timeout=120)
    assert process.returncode == 0
    rows = (result / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 9                  # a header, and nine clips in two evaluations


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_says_how_to_go_on(undisturbed, tmp_path, number):
    data, _, _ = undisturbed
    process = _start(data, tmp_path)
    while "to train" not in process.stdout.readline():
        pass
    time.sleep(0.5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors


def test_two_runs_share_the_folds(undisturbed, tmp_path):
    data, result, _ = undisturbed
    both = [_start(data, tmp_path) for _ in range(2)]
    trained = []
    for process in both:
        said, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        trained += sorted(set(re.findall(r"(casme_sub\d+)  epoch 1/3", said)))
    assert sorted(trained) == ["casme_sub01", "casme_sub02", "casme_sub03"]        # none twice
    assert folds(tmp_path) == folds(result)


def test_a_read_only_result_folder_gives_one_line(undisturbed, tmp_path, monkeypatch, capsys):
    data, _, _ = undisturbed
    blocked = tmp_path / "result"
    blocked.write_text("a file where the folder should be")
    assert run_script(monkeypatch, SCRIPT, *OPTIONS, "--data-root", data, "--result-root", blocked) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(blocked) in line and "write" in line


def test_a_broken_fold_file_is_named_and_trained_again(undisturbed, tmp_path, monkeypatch, capsys):
    data, result, _ = undisturbed
    options = (*OPTIONS, "--folds", "0:1", "--data-root", data, "--result-root", tmp_path)
    assert run_script(monkeypatch, SCRIPT, *options) == 0
    path = next(tmp_path.glob("*/folds/*.json"))
    path.write_text(path.read_text()[:100])
    assert run_script(monkeypatch, SCRIPT, *options) == 0
    assert "the fold is trained again" in capsys.readouterr().out
    assert next(iter(folds(tmp_path).values())) == next(iter(folds(result).values()))
