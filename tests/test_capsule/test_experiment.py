"""Identity, seeds, choice of folds, and what a folder with another configuration says."""

import multiprocessing

import pytest
import torch

from capsule.config import Config, parse
from capsule.data import load_clips
from capsule.device import choose_device, set_arithmetic
from capsule.experiment import Experiment, fold_seed
from common.errors import InputError
from tests.make_database import make_database


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return make_database(tmp_path_factory.mktemp("data"), "casme", subjects=3)


def _experiment(data_root, result_root, **options):
    config = Config(script="train_me_loso", dataset="casme", data_root=str(data_root),
                    result_root=str(result_root), **options)
    return Experiment(config, load_clips(config), {"pretrained": False, "reconstructor": None})


def test_seed_comes_from_seed_and_subject_alone():
    seeds = {fold_seed(seed, subject) for seed in (9, 10) for subject in ("casme_sub01", "casme_sub02")}
    assert len(seeds) == 4 and fold_seed(9, "casme_sub01") in seeds


def test_names_tell_siblings_apart(data_root):
    variants = ({}, {"seed": 1}, {"quick": True}, {"protocol": "megc2019"}, {"subset": "glasses"},
                {"classes": 5}, {"model": "vgg"}, {"logits": True})
    names = {Config(script="train_x", dataset="casme", data_root=str(data_root), **v).experiment_name
             for v in variants}
    assert len(names) == len(variants)


def test_where_it_runs_is_not_part_of_the_identity(data_root):
    one = Config(dataset="casme", data_root=str(data_root))
    other = Config(dataset="casme", data_root=str(data_root), device="cpu", workers=2, folds="0:1", threads=1)
    assert one.identity == other.identity
    assert one.identity != Config(dataset="casme", data_root=str(data_root), learning_rate=1e-3).identity


def test_folds_are_chosen_by_range(data_root, tmp_path):
    chosen = {text: _experiment(data_root, tmp_path, folds=text).chosen() for text in ("", "1:", ":1", "1:9")}
    assert chosen == {"": ["casme_sub01", "casme_sub02", "casme_sub03"], "1:": ["casme_sub02", "casme_sub03"],
                      ":1": ["casme_sub01"], "1:9": ["casme_sub02", "casme_sub03"]}


def test_a_changed_clip_list_is_another_configuration(data_root, tmp_path):
    _experiment(data_root, tmp_path / "r").start()
    other = make_database(tmp_path / "data", "casme", subjects=2)
    with pytest.raises(InputError, match="clip_list"):
        _experiment(other, tmp_path / "r").start()


def _hold(experiment, ready, done):
    with experiment.fold_lock("casme_sub01") as mine:
        ready.put(mine)
        done.get()


def test_a_lock_keeps_others_out_and_dies_with_its_process(data_root, tmp_path):
    experiment = _experiment(data_root, tmp_path)
    context = multiprocessing.get_context("fork")
    ready, done = context.Queue(), context.Queue()
    holder = context.Process(target=_hold, args=(experiment, ready, done))
    holder.start()
    assert ready.get(timeout=30) is True
    with experiment.fold_lock("casme_sub01") as mine:
        assert mine is False
    with experiment.fold_lock("casme_sub02") as mine:
        assert mine is True
    holder.kill()
    holder.join()
    with experiment.fold_lock("casme_sub01") as mine:
        assert mine is True


def test_failures_are_noted_and_cleared(data_root, tmp_path):
    experiment = _experiment(data_root, tmp_path)
    experiment.save_failure("casme_sub01", 5, "the loss is nan")
    assert (experiment.folder / "failed/casme_sub01.json").exists()
    experiment.save("casme_sub01", {"y_true": []}, None)
    assert experiment.finished("casme_sub01")
    assert not (experiment.folder / "failed/casme_sub01.json").exists()


def test_kept_models_count(data_root, tmp_path):
    without = _experiment(data_root, tmp_path)
    without.save("casme_sub01", {}, None)
    assert without.finished("casme_sub01")
    keeping = _experiment(data_root, tmp_path, save_models=True)
    assert not keeping.finished("casme_sub01")
    keeping.save("casme_sub01", {}, torch.nn.Linear(2, 2))
    assert keeping.finished("casme_sub01")
    assert set(torch.load(keeping.model_path("casme_sub01"), weights_only=True)) == {"weight", "bias"}


def test_options_come_from_constants_and_the_command_line(data_root):
    argv = ["--data-root", str(data_root), "--epochs", "3", "--no-pretrained"]
    config = parse("text", argv, dataset="casme", epochs=30, seed=4)
    assert (config.epochs, config.seed, config.pretrained) == (3, 4, False)


@pytest.mark.parametrize("option", ["--model", "--reconstructor", "--logits"])
def test_options_that_a_script_does_not_use_do_not_exist(option, data_root):
    with pytest.raises(SystemExit):
        parse("text", [option, "auto", "--data-root", str(data_root)], dataset="casme")


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "gpu", "cuda:x"):
        with pytest.raises(InputError, match="--device"):
            choose_device(name)


def test_threads_are_set():
    before = torch.get_num_threads()
    set_arithmetic(torch.device("cpu"), threads=1)
    assert torch.get_num_threads() == 1
    set_arithmetic(torch.device("cpu"), threads=before)
    assert torch.get_num_threads() == before
