"""Every training script, the real file, whole, on a generated two-subject database."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch

import capsule.data.protocol as protocol
from capsule import fold as fold_module
from capsule.data import load_clips
from capsule.inputs import augment, face_crops
from capsule.inputs.sampling import apex_rows
from capsule.modules import MECapsuleNet
from common.images import write_image
from tests.make_database import make_database
from tests.scripts import folds, run_script

QUICK = ("--quick", "--epochs", "2", "--device", "cpu")
SCRIPTS = ("train_me_loso.py", "train_me_loso_samm_baseline.py", "train_me_loso_composite_3d.py",
           "train_me_loso_casme_3d_dual.py", "train_me_loso_composite_motion.py")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return make_database(tmp_path_factory.mktemp("data"), "composite")


def _only_fold(result_root):
    """The one fold file there is."""
    (value,) = folds(result_root).values()
    return value


@pytest.mark.parametrize("script", SCRIPTS)
def test_whole(script, data_root, tmp_path, monkeypatch, capsys):
    options = ("--dataset", "casme", "--data-root", data_root, "--result-root", tmp_path, *QUICK)
    assert run_script(monkeypatch, script, *options) == 0
    found = folds(tmp_path)
    assert [value["data_sub"] for value in found.values()] == ["casme_sub01", "casme_sub02"]
    for value in found.values():
        assert len(value["clips"]) == len(value["y_true"]) == len(value["lengths"]) == 3
        assert len(value["loss"]) == len(value["paper"]) == len(value["strict"]) == 2
        assert value["strict"][-1] == [max(range(3), key=row.__getitem__) for row in value["lengths"]]
        assert value["config"]["quick"] and value["pretrained"] is False and value["weights"] == "none"
        assert value["reconstructor"] == ("mesh" if "3d" in script or "motion" in script else None)
    experiment = json.loads(next(tmp_path.glob("*/experiment.json")).read_text())
    assert experiment["folds"] == ["casme_sub01", "casme_sub02"] and len(experiment["clips"]) == 6
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/folds/*.json")}
    assert run_script(monkeypatch, script, *options) == 0
    assert "2 of 2 folds are finished already" in capsys.readouterr().out
    log = next(tmp_path.glob("*/log.txt")).read_text()
    for words in ("fold 1/2 casme_sub01  epoch 2/2  loss ", "train UF1", "strict UF1",
                  "pooled over 2 folds (strict): UF1"):
        assert words in log
    assert ("3-D faces by mesh: face_landmark.tflite 1055cb9d" in log) == bool(value["reconstructor"])
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/folds/*.json")}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_held_out_labels_reach_no_prediction(script, data_root, tmp_path, monkeypatch):
    """SPEC section 7: with the test fold's labels permuted, every prediction of every epoch stays."""
    options = ("--dataset", "casme", "--folds", "1:2", "--data-root", data_root, *QUICK)
    assert run_script(monkeypatch, script, *options, "--result-root", tmp_path / "true") == 0
    honest = protocol.with_paths

    def permuted(table, *arguments):
        mine = table["subject"] == "sub02"
        return honest(table.assign(label=table["label"].where(~mine, (table["label"] + 1) % 3)), *arguments)

    monkeypatch.setattr(protocol, "with_paths", permuted)
    assert run_script(monkeypatch, script, *options, "--result-root", tmp_path / "permuted") == 0
    true, changed = _only_fold(tmp_path / "true"), _only_fold(tmp_path / "permuted")
    assert true["y_true"] != changed["y_true"]
    for name in ("paper", "strict", "lengths", "loss"):
        assert true[name] == changed[name]


def test_a_fold_alone_gives_the_same_numbers(data_root, tmp_path, monkeypatch):
    options = ("--dataset", "smic", "--data-root", data_root, *QUICK)
    assert run_script(monkeypatch, "train_me_loso.py", *options, "--result-root", tmp_path / "all") == 0
    for part in ("1:2", "0:1"):
        assert run_script(monkeypatch, "train_me_loso.py", *options, "--folds", part,
                          "--result-root", tmp_path / "parts") == 0
    assert folds(tmp_path / "all") == folds(tmp_path / "parts")


def test_workers_give_the_same_numbers(data_root, tmp_path, monkeypatch):
    options = ("--dataset", "composite", "--data-root", data_root, *QUICK)
    assert run_script(monkeypatch, "train_me_loso.py", *options, "--result-root", tmp_path / "turn") == 0
    assert run_script(monkeypatch, "train_me_loso.py", *options, "--workers", "2",
                      "--result-root", tmp_path / "parallel") == 0
    assert len(folds(tmp_path / "turn")) == 6
    assert folds(tmp_path / "turn") == folds(tmp_path / "parallel")
    monkeypatch.setattr("ray.init", None)       # not started again where all is finished
    assert run_script(monkeypatch, "train_me_loso.py", *options, "--workers", "2",
                      "--result-root", tmp_path / "parallel") == 0


@pytest.mark.parametrize("options", [("--paint", "motion"), ("--streams", "crop+views"),
                                     ("--streams", "pictures")])
def test_the_views_take_every_paint_and_stream(options, data_root, tmp_path, monkeypatch):
    given = ("--dataset", "casme", "--folds", "0:1", "--data-root", data_root, *QUICK, "--epochs", "1")
    assert run_script(monkeypatch, "train_me_loso_composite_3d.py", *given, *options,
                      "--result-root", tmp_path) == 0
    assert len(_only_fold(tmp_path)["lengths"]) == 3


def test_ready_motion_needs_the_sheets_alone(tmp_path, monkeypatch, capsys):
    """No frames, and no apex of SMIC, whose sheet has none."""
    root = make_database(tmp_path / "data", "composite")
    for folder in ("casme2", "samm", "smic"):
        shutil.rmtree(root / folder)
    for table in root.rglob("smic_apex*"):
        table.unlink()
    clips = load_clips("composite", root, frames=None)
    draws = np.random.default_rng(0)
    for row in clips.table.itertuples():
        write_image(tmp_path / "motion" / f"{row.subject}_{row.clip}.png",
                    draws.integers(0, 256, (28, 28, 3), dtype=np.uint8))
    assert run_script(monkeypatch, "train_me_loso_composite_motion.py", "--model", "SVM", "--motion",
                      tmp_path / "motion", "--data-root", root, "--result-root", tmp_path / "result") == 0
    said = capsys.readouterr().out
    assert "apex" not in said and "epoch 1/1 " in said
    facts = json.loads(next((tmp_path / "result").glob("*/experiment.json")).read_text())
    assert len(facts["clips"]) == len(clips.table) and facts["notes"] == []


def test_another_configuration_is_refused(data_root, tmp_path, monkeypatch, capsys):
    options = ("--dataset", "samm", "--data-root", data_root, "--result-root", tmp_path, "--quick")
    assert run_script(monkeypatch, "train_me_loso.py", *options, "--epochs", "1") == 0
    before = folds(tmp_path, drop=())
    assert run_script(monkeypatch, "train_me_loso.py", *options, "--epochs", "2") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "another configuration (epochs: 1 there, 2 now)" in line
    assert folds(tmp_path, drop=()) == before


def test_kept_models_load_and_predict_what_was_written(data_root, tmp_path, monkeypatch):
    options = ("--dataset", "casme", "--data-root", data_root, "--result-root", tmp_path, *QUICK)
    run = (*options, "--save-models", "--precision", "fp32", "--folds", "0:1")
    assert run_script(monkeypatch, "train_me_loso.py", *run) == 0
    fold = _only_fold(tmp_path)
    state = torch.load(next(tmp_path.glob("*/models/casme_sub01.pt")), weights_only=True)
    model = MECapsuleNet((3, 152, 152), 3, pretrained=False, width=0.25)
    model.load_state_dict(state)
    crops = face_crops(load_clips("casme", data_root))
    images = augment.shrunk(crops.images[apex_rows(crops, np.arange(3))], 152)
    inputs = augment.strict_batch([images], 152)
    with torch.inference_mode():
        lengths = model.eval()(*inputs)
    assert torch.allclose(lengths, torch.tensor(fold["lengths"]), atol=1e-4)


def test_a_fold_whose_loss_is_nan_is_named_and_the_others_go_on(data_root, tmp_path, monkeypatch, capsys):
    honest = fold_module._train_epoch

    def broken(learner, pictures, rows, draws):
        loss, meter = honest(learner, pictures, rows, draws)
        test = set(range(len(pictures.clips.table))) - set(pictures.index.clip[rows].tolist())
        return float("nan") if pictures.clips.table["subject"].iloc[min(test)] == "sub01" else loss, meter

    monkeypatch.setattr(fold_module, "_train_epoch", broken)
    options = ("--dataset", "casme", "--data-root", data_root, "--result-root", tmp_path, *QUICK)
    assert run_script(monkeypatch, "train_me_loso.py", *options) == 1
    assert "fold casme_sub01 failed: the loss is nan in epoch 1 (fold seed" in capsys.readouterr().out
    assert [value["data_sub"] for value in folds(tmp_path).values()] == ["casme_sub02"]
    assert json.loads(next(tmp_path.glob("*/failed/casme_sub01.json")).read_text())["fold_seed"] > 0
    monkeypatch.setattr(fold_module, "_train_epoch", honest)
    assert run_script(monkeypatch, "train_me_loso.py", *options) == 0
    assert len(folds(tmp_path)) == 2 and not list(tmp_path.glob("*/failed/*"))


def test_a_full_gpu_is_one_line(data_root, tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr(fold_module.augment, "shrunk", full)
    options = ("--dataset", "casme", "--data-root", data_root, "--result-root", tmp_path, *QUICK)
    assert run_script(monkeypatch, "train_me_loso.py", *options) == 2
    assert "the GPU's memory is full with --workers 1; use a smaller --batch-size" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "words"), [
    (("--dataset", "nothing"), "nothing"),
    (("--data-root", "nowhere"), "--data-root nowhere: no such folder"),
    (("--dataset", "smic", "--classes", "5"), "only casme"),
    (("--epochs", "0"), "--epochs 0: must be from 1"),
    (("--folds", "7"), "--folds 7: write a range"),
    (("--folds", "7:9"), "--folds 7:9: selects no fold"),
    (("--device", "tpu"), "--device tpu: unknown"),
    (("--experiment", "../up"), "is not a plain name"),
    (("--experiment", ".."), "is not a plain name"),
    (("--seed", "-1"), "--seed -1: must be from 0"),
    (("--threads", "1000000"), "--threads 1000000"),
    (("--weights", "nowhere.pt"), "nowhere.pt"),
])
def test_unusable_options_give_one_line(options, words, data_root, tmp_path, monkeypatch, capsys):
    given = ("--dataset", "casme", "--data-root", data_root, "--result-root", tmp_path, "--quick", *options)
    assert run_script(monkeypatch, "train_me_loso.py", *given) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in lines[-1] and "Traceback" not in "\n".join(lines)
    assert not list(tmp_path.iterdir())                  # nothing is left behind


def test_one_subject_is_refused(tmp_path, monkeypatch, capsys):
    root = make_database(tmp_path / "data", "casme", subjects=1)
    given = ("--dataset", "casme", "--data-root", root, "--result-root", tmp_path / "result", "--quick")
    assert run_script(monkeypatch, "train_me_loso.py", *given) == 2
    assert "1 subject(s); leaving one subject out needs at least two" in capsys.readouterr().err


def test_weights_of_an_old_network_are_used_and_what_did_not_match_is_said(data_root, tmp_path, monkeypatch,
                                                                           capsys):
    old = MECapsuleNet((3, 224, 224), 5, pretrained=False, width=0.25)
    state = {f"module.{name}": value for name, value in old.state_dict().items()}       # of DataParallel
    torch.save({"epoch": 30, "state_dict": {**state, "module.decoder.bias": torch.zeros(3)}},
               tmp_path / "old.pth")
    options = ("--dataset", "casme", "--folds", "0:1", "--data-root", data_root, "--weights",
               tmp_path / "old.pth", "--result-root", tmp_path / "result", *QUICK, "--epochs", "1")
    assert run_script(monkeypatch, "train_me_loso.py", *options) == 0
    said = [["tensors of the network that old.pth lacks, by name and shape", 1, ["digitcaps.weight"]],
            ["tensors of old.pth that the network lacks, by name and shape", 2,
             ["decoder.bias", "digitcaps.weight"]]]
    printed = capsys.readouterr().out
    for what, count, names in said:
        assert f"  {what} ({count}): {', '.join(names)}\n" in printed
    facts = json.loads(next((tmp_path / "result").glob("*/experiment.json")).read_text())
    assert [[note["what"], note["count"], note["clips"]] for note in facts["notes"]][-2:] == said
    count = len(old.state_dict())
    assert facts["weights"]["found"].endswith(f", {count - 1} of {count} tensors")


def test_a_failed_download_is_said_once(data_root, tmp_path, monkeypatch, caplog):
    """Full size, one epoch of one fold: without the ImageNet weights training starts from random ones."""
    import capsule.modules.backbone as backbone

    backbone.imagenet_weights.cache_clear()
    monkeypatch.setattr(backbone.IMAGENET["resnet"].__class__, "get_state_dict",
                        lambda *arguments, **options: (_ for _ in ()).throw(OSError("no network")))
    options = ("--dataset", "casme", "--folds", "0:1", "--epochs", "1", "--data-root", data_root)
    with caplog.at_level(logging.WARNING):
        assert run_script(monkeypatch, "train_me_loso.py", *options, "--result-root", tmp_path) == 0
    assert [record.message.count("no network") for record in caplog.records].count(1) == 1
    assert _only_fold(tmp_path)["pretrained"] is False
    backbone.imagenet_weights.cache_clear()


def test_an_offline_run_and_one_from_random_weights_never_share_a_folder(data_root, tmp_path, monkeypatch):
    import capsule.modules.backbone as backbone

    monkeypatch.setattr(backbone, "imagenet_weights", lambda name: None)
    options = ("--dataset", "casme", "--folds", "0:1", "--epochs", "1", "--data-root", data_root,
               "--result-root", tmp_path)
    for more in ((), ("--no-pretrained",)):
        assert run_script(monkeypatch, "train_me_loso.py", *options, *more) == 0
    told = [json.loads(path.read_text())["weights"] for path in sorted(tmp_path.glob("*/experiment.json"))]
    assert sorted(map(str, told)) == sorted(map(str, [{"asked": "ImageNet", "found": "none"},
                                                      {"asked": "none", "found": "none"}]))


def test_a_mistyped_data_root_makes_nothing(tmp_path, monkeypatch):
    for script in SCRIPTS:
        assert run_script(monkeypatch, script, "--dataset", "synthetic", "--data-root", tmp_path / "typo",
                          "--result-root", tmp_path / "result") == 2
    assert not list(tmp_path.iterdir())
