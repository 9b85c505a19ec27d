"""Where a network looks: maps against autograd by hand, unsafe models, the real script on a tiny database."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skimage.data
import torch
from matplotlib.text import Text

import grad_cam_visual
from capsule import gradcam
from capsule.data import load_clips
from capsule.experiment import model_path
from capsule.figures import clip_figure, heading, mean_map_figure
from capsule.modules import MECapsuleNetDualCA, network
from capsule.results import read_run
from capsule.trained import READY, Trained, check_maker, load_trained, maker_of
from common.errors import InputError
from common.images import read_image, write_image
from common.tensors import load_tensors, save_tensors
from deca import make_reconstructor
from tests.fake_runs import change_json, write_run
from tests.make_database import make_database
from tests.scripts import folds
from tests.scripts import run_script as run_here

ROOT, CPU = Path(__file__).parents[2], torch.device("cpu")
CHANNELS = {"crop": 3, "views": 39, "texture": 39, "motion": 39}


def make_run(root, model="resnet", kinds=("crop",)):
    """A tiny CASME II and an experiment on it whose folds' models are untrained networks. Returns: Run."""
    make_database(root / "data", "casme", subjects=2, clips_per_subject=3)
    clips = load_clips("casme", root / "data")
    rows = [{**row, "label": int(row["label"])} for row in
            clips.table[["data", "subject", "clip", "data_sub", "label"]].to_dict("records")]
    config = {"dataset": "casme", "protocol": "dsnca", "subset": "all", "model": model, "logits": False,
              "quick": True, "streams": "", "paint": "shape_detail", "inputs": [{"kind": kind}
                                                                                for kind in kinds]}
    write_run(root / "result", rows=rows, dataset="casme", synthetic=False, config=config)
    run = read_run(root / "result", "fake")
    for seed, data_sub in enumerate(run.folds):
        torch.manual_seed(seed)
        made, _ = network(model, 3, quick=True).make([CHANNELS[kind] for kind in kinds])
        save_tensors(run.folder / "models" / f"{data_sub}.pt", made.state_dict())
    return run


def untrained(model, kinds):
    net = network(model, 3, quick=True)
    made, _ = net.make([CHANNELS[kind] for kind in kinds])
    return Trained(made.eval(), net, kinds, "mesh", "shape_detail", ("negative", "positive", "surprise"), "x")


def run_script(root, *arguments, name="grad_cam_visual.py"):
    return subprocess.run([sys.executable, str(ROOT / name), *map(str, arguments), "--device", "cpu"],
                          capture_output=True, text=True, cwd=root, timeout=300, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_maps_of_both_streams_equal_hirescam_by_hand():
    torch.manual_seed(0)
    model = MECapsuleNetDualCA(3, pretrained=False, width=0.25, input_size=(152, 152)).eval()
    inputs = [torch.rand(1, 3, 152, 152), torch.rand(1, 13, 152, 152)]
    before = [x.clone() for x in inputs]
    maps, outputs, side = gradcam.activation_maps(model, inputs)
    assert side == 19 and outputs.shape == (3,)
    kept = []
    hooks = [layer.register_forward_hook(lambda module, given, out: kept.append(out))
             for layer in gradcam.target_layers(model)]
    output = model(*inputs)
    assert outputs == pytest.approx(output[0].detach().numpy(), abs=1e-6)
    gradients = torch.autograd.grad(output[0, outputs.argmax()], kept)
    for found, activation, gradient in zip(maps, kept, gradients, strict=True):
        expected = torch.relu((gradient * activation).sum(1, keepdim=True)).detach()
        expected = expected - expected.min()
        expected = torch.nn.functional.interpolate(expected / (1e-7 + expected.max()), (152, 152),
                                                   mode="bilinear", align_corners=False)[0, 0].numpy()
        assert found == pytest.approx(expected / (1e-7 + expected.max()), abs=0.02)
    for hook in hooks:
        hook.remove()
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("model", "kinds"), [
    ("resnet", ("crop",)), ("vgg", ("views",)), ("resnet", ("texture",)), ("MECapsuleNetDual", ("crop",
                                                                                                "views")),
    ("VGG", ("crop",)), ("ResNet", ("crop",))])
def test_every_network_gives_a_map_for_each_stream(model, kinds):
    trained = untrained(model, kinds)
    pictures = [torch.randint(256, (1, {"crop": 3, "views": 13, "texture": 39}[kind], 224, 224),
                              dtype=torch.uint8)
                for kind in kinds]
    crop = np.zeros((3, 224, 224), np.uint8)
    clip = gradcam.explain(trained, "synthetic/s/c", 2, pictures, crop)
    assert len(clip.maps) == len(kinds)
    assert all(found.shape == (224, 224) and found.min() >= 0 and found.max() <= 1.001
               for found in clip.maps.values())
    assert clip.prediction == clip.lengths.argmax() and clip.apex.shape == (224, 224, 3)
    assert trained.outputs(pictures)[0].tolist() == pytest.approx(clip.lengths.tolist(), abs=1e-5)


class Touch:
    """A pickle of this makes the file `path` when it is opened carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["torch", "pickle", "rubbish", "list", "other", "nan"])
def test_a_model_file_that_is_no_state_dict_is_refused_and_nothing_runs(tmp_path, how):
    run = make_run(tmp_path)
    path, made = gradcam.model_path(run, run.folds[0]), tmp_path / "made"
    load_trained(path, CPU)
    if how == "torch":
        torch.save({"weight": Touch(made)}, path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps(Touch(made), protocol=2))
    elif how == "rubbish":
        path.write_bytes(b"\x00rubbish" * 100)
    elif how == "list":
        torch.save([1, 2], path)
    elif how == "nan":      # every class would be the first
        torch.save({name: value * torch.nan for name, value in load_tensors(path).items()}, path)
    else:
        torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError) as caught:
        load_trained(path, CPU)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not made.exists()


def test_clip_figure_says_what_it_shows(tmp_path):
    run = make_run(tmp_path)
    found = np.linspace(0, 1, 224 * 224).reshape(224, 224)
    picture = np.full((224, 224, 3), 90, np.uint8)
    clip = gradcam.ClipMaps("casme/sub01/EP01_01f", 0, 1, np.array([0.1, 0.7, 0.3]), picture, None,
                            np.zeros((13, 224, 224), np.uint8), {"crop": found, "views": 0 * found}, 28)
    figure = clip_figure(heading(run), run.facts["class_names"], clip)
    shown = " | ".join(text.get_text() for text in figure.findobj(Text))
    for words in ("true negative, predicted positive", "not on disk", "28×28", "view at 30°",
                  "does not tell the views apart", "view at -30°", "nothing speaks for it", "quick"):
        assert words in shown
    bars = [axes for axes in figure.findobj(lambda thing: hasattr(thing, "patches"))
            if len(axes.patches) == 3]
    assert [bar.get_width() for bar in bars[0].patches] == pytest.approx([0.1, 0.7, 0.3])


def test_mean_maps_average_the_clips_of_a_predicted_class(tmp_path):
    run = make_run(tmp_path)
    views = np.stack([np.full((4, 4), 10 * i, np.uint8) for i in range(13)])

    def clip(prediction, level):
        return gradcam.ClipMaps("k", 0, prediction, np.eye(3)[prediction], np.full((4, 4, 3), 100, np.uint8),
                                None, views, {"crop": np.full((4, 4), level), "views": np.ones((4, 4))}, 28)

    means = gradcam.mean_maps([clip(1, 0.2), clip(1, 0.6), clip(2, 1.0)])
    assert set(means) == {(stream, label) for stream in ("crop", "views") for label in (1, 2)}
    picture, found, count = means["crop", 1]
    assert found == pytest.approx(0.4) and count == 2 and (picture == 100).all()
    assert (means["views", 2][0] == 60).all()      # the frontal view, yaw 0
    shown = [text.get_text() for text in mean_map_figure(run, means).findobj(Text)]
    assert "never predicted" in shown and "positive (2 clips)" in shown and "surprise (1 clip)" in shown


def test_chosen_clips_are_those_whose_fold_has_a_model(tmp_path):
    run, data = make_run(tmp_path), tmp_path / "data"
    assert gradcam.clips_of(run, data).keys == ["casme/sub01/EP01_01f"]
    assert gradcam.clips_of(run, data, "casme/sub02/EP03_01f").labels.tolist() == [2]
    (run.folder / "models/casme_sub01.pt").unlink()
    assert gradcam.clips_of(run, data, every=True).keys == [f"casme/sub02/EP0{i}_01f" for i in (1, 2, 3)]
    with pytest.raises(InputError, match="casme/sub01/EP01_01f"):
        gradcam.clips_of(run, data, "../../etc/passwd")
    with pytest.raises(InputError, match="--save-models"):
        load_trained(gradcam.model_path(run, "casme_sub01"), CPU)
    (run.folder / "models/casme_sub02.pt").unlink()
    with pytest.raises(InputError, match="--save-models"):
        gradcam.clips_of(run, data)


def test_clips_come_from_where_the_run_took_them(tmp_path):
    run, data = make_run(tmp_path), tmp_path / "data"
    shutil.copytree(data / "casme2", data / "CASME2_other", dirs_exist_ok=True)
    taken = {"protocol": "dsnca", "motion": "frames", "views_root": "", "skip_missing": True}
    for frames, folder in (("", "casme2"), ("other", "CASME2_other")):
        change_json(run.folder / "experiment.json", places={**taken, "frames": frames})
        clips = gradcam.clips_of(read_run(tmp_path / "result", "fake"), data)
        assert clips.table["apex_frame_path"][0].startswith(folder)
    (data / clips.table["apex_frame_path"][0]).unlink()
    run = read_run(tmp_path / "result", "fake")
    assert gradcam.clips_of(run, data, "casme/sub02/EP03_01f").keys == ["casme/sub02/EP03_01f"]
    change_json(run.folder / "experiment.json", places=taken)
    with pytest.raises(InputError, match="does not say where its pictures came from"):
        gradcam.clips_of(read_run(tmp_path / "result", "fake"), data)


def test_a_wrong_data_root_makes_no_synthetic_database(tmp_path):
    run = make_run(tmp_path)
    change_json(run.folder / "experiment.json", config={**run.facts["config"], "dataset": "synthetic"})
    with pytest.raises(InputError, match="no synthetic database there"):
        gradcam.clips_of(read_run(tmp_path / "result", "fake"), tmp_path / "data")
    assert not (tmp_path / "data" / "synthetic").exists()


def test_a_fold_of_ours_is_known_from_within_its_folder(tmp_path, monkeypatch):
    run = make_run(tmp_path, kinds=("texture",))
    monkeypatch.chdir(run.folder / "models")
    assert load_trained("casme_sub01.pt", CPU).kinds == ("texture",)      # experiment.json alone says so
    change_json(run.folder / "experiment.json", config={**run.facts["config"], "model": "resnet19"})
    with pytest.raises(InputError, match=r"experiment\.json: does not say which network .*'resnet19'"):
        load_trained("casme_sub01.pt", CPU)


@pytest.mark.parametrize("change", [
    {"class_names": ["negative", "positive"]}, {"class_names": ["negative", "positive", "\x1b[31mred"]},
    {"class_names": ["negative", "positive", {}]}, {"classes": 10**9}, {"classes": "3"}, {"clips": None},
    {"classes": 1000, "class_names": [f"c{number}" for number in range(1000)]},
    {"config": {"logits": True}}, {"config": {"paint": []}}, {"config": {"inputs": [7]}}])
def test_an_experiment_that_was_changed_by_hand_is_one_line(tmp_path, change):
    run = make_run(tmp_path)
    if "config" in change:
        change = {"config": run.facts["config"] | change["config"]}
    change_json(run.folder / "experiment.json", **change)
    with pytest.raises(InputError, match=r"experiment\.json: does not say which network"):
        load_trained(gradcam.model_path(run, run.folds[0]), CPU)


def test_a_network_of_a_million_classes_is_not_built(tmp_path):
    save_tensors(tmp_path / "a.pt", {"conv3.weight": torch.zeros(1), "fc.weight": torch.zeros(10**6)})
    with pytest.raises(InputError, match="a network of 1000000 classes"):
        load_trained(tmp_path / "a.pt", CPU)


def test_a_network_is_known_from_its_tensors_alone(tmp_path):
    for model, kinds in (("resnet", ("crop",)), ("resnet", ("views",)), ("MECapsuleNetDualCA", ("crop",
                                                                                                "views")),
                         ("ResNet", ("crop",)), ("vgg", ("crop",))):
        made, _ = network(model, 3, quick=model != "vgg", pretrained=False).make([CHANNELS[kind]
                                                                                  for kind in kinds])
        save_tensors(tmp_path / "old.pt", made.state_dict())
        trained = load_trained(tmp_path / "old.pt", CPU)
        assert (trained.network.name, trained.kinds) == (model, kinds)
    made, _ = network("resnet", 3, quick=True, joined=True).make([3, 39])
    save_tensors(tmp_path / "old.pt", made.state_dict())
    trained = load_trained(tmp_path / "old.pt", CPU)
    assert trained.network.joined and trained.kinds == ("crop", "views")
    save_tensors(tmp_path / "four.pt", network("resnet", 4, quick=True).make()[0].state_dict())
    assert load_trained(tmp_path / "four.pt", CPU).class_names == ("class 0", "class 1", "class 2", "class 3")
    save_tensors(tmp_path / "none.pt", {"weight": torch.zeros(2)})
    with pytest.raises(InputError, match="no network of this project"):
        load_trained(tmp_path / "none.pt", CPU)


def test_a_network_whose_outputs_are_no_numbers_names_no_class():
    trained, pictures = untrained("resnet", ("crop",)), [torch.zeros(1, 3, 224, 224, dtype=torch.uint8)]
    with torch.no_grad():
        trained.model.digitcaps.weight.fill_(1e36)
    for ask in (lambda: trained.outputs(pictures), lambda: gradcam.explain(trained, "a", 0, pictures, None)):
        with pytest.raises(InputError, match=r"^x: its outputs are no numbers"):
            ask()


@pytest.mark.parametrize(("model", "side"), [("STSTNet", 5), ("MECapsuleNet", 19)])
def test_frontal_motion_has_one_map_on_its_picture(tmp_path, model, side):
    net = network(model, 3, quick=True)
    made, _ = net.make((3,))
    trained = Trained(made.eval(), net, ("motion",), "mesh", "shape_detail", ("a", "b", "c"), "x", READY)
    pictures = [torch.randint(256, (1, 3, 28, 28), dtype=torch.uint8)]
    clip = gradcam.explain(trained, "casme/s/c", 1, pictures, None)
    assert clip.maps["motion"].shape == (28, 28) and clip.side == side and clip.apex is None
    assert (clip.frontal == pictures[0][0].permute(1, 2, 0).numpy()).all()
    assert trained.outputs(pictures)[0].tolist() == pytest.approx(clip.lengths.tolist(), abs=1e-5)
    assert model != "STSTNet" or clip.lengths.sum() == pytest.approx(1, abs=1e-5)       # no logits
    figure = clip_figure("a network", trained.class_names, clip)
    shown = " | ".join(text.get_text() for text in figure.findobj(Text))
    assert "map on motion" in shown and "red u" in shown and "onset" not in shown and "view" not in shown


@pytest.mark.parametrize(("model", "motion"), [("STSTNet", "ready"), ("MotionCapsuleNet", "ready"),
                                               ("MECapsuleNet", "frames"), ("SVM", "ready"),
                                               ("ActionUnitSVM", "ready")])
def test_an_experiment_of_motion_is_explained_and_predicts_what_it_wrote(tmp_path, monkeypatch, capsys, model,
                                                                         motion):
    """Train, then Grad-CAM and prediction with the fold's model, as a user does."""
    monkeypatch.chdir(tmp_path)
    clips = load_clips("casme", make_database("data", "casme", subjects=2))
    draws = np.random.default_rng(0)
    for row in clips.table.itertuples():
        write_image(f"ready/{row.subject}_{row.clip}.png", draws.integers(0, 256, (28, 28, 3), np.uint8))
    options = ("--data-root", "data", "--device", "cpu")
    assert run_here(monkeypatch, "train_me_loso_composite_motion.py", *options, "--dataset", "casme",
                    "--motion", motion, "--model", model, "--quick", "--epochs", "1", "--folds", "0:1",
                    "--save-models", "--precision", "fp32", "--experiment", "x") == 0
    (fold,) = folds("result").values()
    capsys.readouterr()
    code = run_here(monkeypatch, "grad_cam_visual.py", *options, "--experiment", "x")
    said, errors = capsys.readouterr()
    if "SVM" in model:
        assert code == 2 and errors.strip().splitlines()[-1].endswith(
            "(--model STSTNet, MotionCapsuleNet, MECapsuleNet)")
    else:
        assert code == 0 and "predicted" not in said
        assert Path("result/x/grad_cam/casme_sub01_EP01_01f.png").is_file()
    picture = "ready/sub01_EP01_01f.png" if motion == "ready" else next(
        Path("data/motion").glob("*/frontal/casme/sub01/EP01_01f/14/0.png"))
    write_image("photo.png", skimage.data.astronaut())
    assert run_here(monkeypatch, "predict.py", picture, "photo.png", "--model",
                    "result/x/models/casme_sub01.pt", "--device", "cpu") == 1
    said = capsys.readouterr().out
    assert "photo.png: shows a face, but the network sees motion" in said and "x · quick" in said
    (row,) = pd.read_csv("predictions_of_pictures.csv").to_dict("records")
    assert [row[name] for name in clips.class_names] == pytest.approx(fold["lengths"][0], abs=2e-4)
    shutil.copy("result/x/models/casme_sub01.pt", "alone.pt")       # without its experiment.json
    assert run_here(monkeypatch, "predict.py", picture, "--model", "alone.pt", "--paint", "motion",
                    "--device", "cpu") == 0
    (alone,) = pd.read_csv("predictions_of_pictures.csv").to_dict("records")
    if model == "STSTNet":
        assert "taken for published weights, whose motion pictures are not norm" in capsys.readouterr().out
    else:
        assert alone == row
    capsys.readouterr()
    assert run_here(monkeypatch, "predict.py", picture, "--model", "alone.pt", "--paint", "motion",
                    "--device", "cpu", "--out", "result") == 2      # a folder: the table is still shown
    said, errors = capsys.readouterr()
    assert Path(picture).name in said and "written" not in said and "result: a folder" in errors


def test_motion_networks_without_their_experiment(tmp_path):
    for model in ("STSTNet", "MotionCapsuleNet", "MECapsuleNet"):
        made, _ = network(model, 3, quick=True).make((3,))
        save_tensors(tmp_path / "alone.pt", made.state_dict())
        trained = load_trained(tmp_path / "alone.pt", CPU, paint="motion")
        assert trained.kinds == ("motion",) and trained.frontal
    made, _ = network("resnet", 3, quick=True).make((39,))
    save_tensors(tmp_path / "alone.pt", made.state_dict())
    with pytest.raises(InputError, match="thirteen views of motion"):
        maker_of(load_trained(tmp_path / "alone.pt", CPU, paint="motion"), CPU)
    for images in (torch.zeros(3), torch.zeros(2, 3, 28, 28), torch.zeros(2, 3, 4, 4, dtype=torch.uint8)):
        save_tensors(tmp_path / "alone.pt", {"images": images, "labels": torch.tensor([0, 1])})
        with pytest.raises(InputError, match="not the state of an SVM"):
            load_trained(tmp_path / "alone.pt", CPU)
    images = torch.arange(5 * 3 * 28 * 28).view(5, 3, 28, 28).mul(7).to(torch.uint8)
    for classes in (3, 5):
        save_tensors(tmp_path / "alone.pt", {"images": images, "labels": torch.arange(5) % classes})
        assert len(load_trained(tmp_path / "alone.pt", CPU).class_names) == classes


def test_views_by_another_program_than_in_training_are_said(tmp_path, capsys):
    run = make_run(tmp_path, kinds=("views",))
    change_json(run.folder / "experiment.json", reconstructor=None)
    maker = maker_of(load_trained(model_path(run, "casme_sub01"), CPU), CPU)
    assert f"here {maker.name} makes them, with --paint shape_detail\n" in capsys.readouterr().out


@pytest.mark.parametrize(("of", "name"), [("model", "face_topology.npz"), ("made by", "version")])
def test_other_files_or_rules_than_the_experiments_make_no_views(of, name, tmp_path):
    run, maker = make_run(tmp_path, kinds=("views",)), make_reconstructor("mesh", "cpu")
    path, clips = model_path(run, "casme_sub01"), gradcam.clips_of(run, tmp_path / "data")
    for changed in ({}, {name: "another"}):
        rule = {"kind": "views", "model": maker.model, "made by": maker.rule}
        rule[of] = {**rule[of], **changed}
        change_json(run.folder / "experiment.json", reconstructor="mesh",
                    config={**run.facts["config"], "inputs": [rule]})
        if not changed:
            check_maker(load_trained(path, CPU), {**rule, "rasterizer": "pytorch3d"})
            assert maker_of(load_trained(path, CPU), CPU).model == maker.model
            next(gradcam.explain_clips(run, clips, CPU))
    for ask in (lambda: maker_of(load_trained(path, CPU), CPU),
                lambda: next(gradcam.explain_clips(run, clips, CPU))):
        with pytest.raises(InputError, match=f"fake.*by mesh of another {name};"):
            ask()
    older = {**rule, of: getattr(maker, {"model": "model", "made by": "rule"}[of]), "version": 99}
    change_json(run.folder / "experiment.json", config={**run.facts["config"], "inputs": [older]})
    with pytest.raises(InputError, match=r"fake.*by mesh of another version;"):
        next(gradcam.explain_clips(run, clips, CPU))
    config = {**run.facts["config"], "inputs": [{**rule, of: "no object"}]}
    change_json(run.folder / "experiment.json", config=config)
    with pytest.raises(InputError, match=f"fake.*by mesh of another {of};"):
        maker_of(load_trained(path, CPU), CPU)


def test_a_prediction_that_is_not_the_stored_one_is_said(tmp_path):
    run = make_run(tmp_path)
    fold = run.finished["casme_sub01"]
    stored = int(fold.predictions["strict"][-1][0])
    nothing = np.zeros((4, 4, 3), np.uint8)
    clips = [gradcam.ClipMaps("/".join(fold.clips[0]), 0, label, np.zeros(3), nothing, None, None, {}, 28)
             for label in range(3)]
    lines = gradcam.differences(run, clips)
    assert len(lines) == 2
    assert all("casme/sub01/EP01_01f" in line for line in lines)
    assert gradcam.differences(run, [clips[stored]]) == []


def test_script_draws_each_clip_and_the_mean_maps(tmp_path):
    run = make_run(tmp_path)
    (run.folder / "models/casme_sub02.pt").unlink()      # a run that is not finished
    done = run_script(tmp_path, "--experiment", "fake", "--result-root", "result", "--data-root", "data",
                      "--all")
    assert done.returncode == 0, done.stderr
    folder = run.folder / "grad_cam"
    names = {f"casme_sub01_EP0{i}_01f" for i in (1, 2, 3)} | {"mean_maps"}
    files = {name + end for name in names for end in (".png", ".pdf")}
    assert {path.name for path in folder.iterdir()} == files
    assert all(read_image(path).std() > 5 for path in folder.glob("*.png"))


def test_script_ends_with_one_line_and_code_2_where_it_cannot_go_on(tmp_path):
    make_run(tmp_path)
    done = run_script(tmp_path, "--experiment", "fake", "--result-root", "result", "--data-root", "data",
                      "--clip",
                      "casme/sub09/EP01_01f")
    assert done.returncode == 2 and "casme/sub01/EP01_01f" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("given", ["--all", "a.png", "a.png --model m.pt --all", "--model m.pt --clip c",
                                   "a.png --model m.pt --experiment e"])
def test_clips_and_pictures_are_not_asked_for_at_once(monkeypatch, given):
    monkeypatch.setattr("sys.argv", ["grad_cam_visual.py", *given.split()])
    with pytest.raises(InputError, match="give --experiment NAME"):
        grad_cam_visual.options()


def test_any_picture_is_classified_and_explained(tmp_path):
    run = make_run(tmp_path, "MECapsuleNetDualCA", ("crop", "views"))
    write_image(tmp_path / "pictures" / "a.png", skimage.data.astronaut()[:300, 60:400])
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"no picture")
    model = gradcam.model_path(run, run.folds[0])
    done = run_script(tmp_path, "pictures", "--model", model, name="predict.py")
    assert done.returncode == 1 and "broken.jpg: not a readable picture" in done.stdout, done.stderr
    lines = (tmp_path / "predictions_of_pictures.csv").read_text().splitlines()
    assert len(lines) == 2 and lines[1].startswith("pictures/a.png,") and ",found," in lines[1]
    write_image(tmp_path / "pictures" / "a.jpg", skimage.data.astronaut()[:300, 60:400])
    write_image(tmp_path / "cat.png", skimage.data.cat())
    done = run_script(tmp_path, "pictures/a.png", "pictures/a.jpg", "cat.png", "--model", model)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("3 of 3 pictures: grad_cam\ncat.png: no face found\n")
    assert all((tmp_path / "grad_cam" / name).is_file() for name in ("pictures_a.png", "pictures_a_jpg.png"))
    odd = os.fsdecode(b"\xe9\x1b[31m.jpg")      # no UTF-8, and a word to the terminal
    shutil.copy(tmp_path / "pictures" / "a.jpg", tmp_path / odd)
    for name in ("predict.py", "grad_cam_visual.py"):
        done = run_script(tmp_path, odd, "--model", model, name=name)
        assert done.returncode == 0 and done.stdout.replace("\n", "").isprintable(), done.stderr
