"""Identity, the one gate for options, choice of folds, and what a folder with another configuration says."""

import hashlib
import multiprocessing
import os
import platform
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.generated import generated
from capsule import experiment as experiment_module
from capsule.config import Options, parse
from capsule.experiment import PROGRAM, Experiment, environment, model_path, unlike
from capsule.inputs.crops import with_images
from capsule.modules import network
from capsule.results import read_run
from common.device import choose_device
from common.errors import InputError
from common.files import read_json
from common.names import is_plain_name

NET = network("resnet", 3, quick=True)


@pytest.fixture(scope="module")
def data():
    return generated([3, 3, 3], size=8)


def make(data, root, weights="none", precision="fp32", streams=None, clips=None, net=NET, **options):
    told = Options(script="train_me_loso", dataset="synthetic", data_root=".", result_root=str(root),
                   **options)
    return Experiment(told, clips or data[0], streams or data[1], net, weights, precision)


RESULT = {"fold_seed": 1, "clips": [{"data": "synthetic", "subject": "sub00", "clip": f"EP0{c}"}
                                    for c in range(3)],
          "y_true": [0, 1, 2], "lengths": [[0.1, 0.2, 0.3]] * 3, "loss": [0.5], "paper": [[2, 2, 2]],
          "strict": [[2, 2, 2]]}


def test_names_tell_siblings_apart():
    variants = ({}, {"seed": 1}, {"quick": True}, {"protocol": "megc2019"}, {"subset": "glasses"},
                {"classes": 5},
                {"model": "vgg"}, {"logits": True}, {"pretrained": False}, {"paint": "texture"},
                {"weights": "x.pt"}, {"views_root": "x"})
    names = {Options(script="train_x", dataset="casme", data_root=".", **v).experiment_name for v in variants}
    assert len(names) == len(variants) and all(map(is_plain_name, names))


def test_where_it_runs_is_not_part_of_the_identity(data, tmp_path):
    first = make(data, tmp_path).identity
    assert first == make(data, tmp_path, device="cpu", workers=2, folds="0:1", threads=1).identity
    assert first == make(data, tmp_path, rasterizer="torch", reconstructor="mesh", skip_missing=True).identity
    assert first != make(data, tmp_path, learning_rate=1e-3).identity


def test_what_was_moved_is_looked_for_where_it_is_now(data, tmp_path):
    for place in ("here", "there"):
        make(data, tmp_path, frames=place, experiment="one").start()
    assert read_json(tmp_path / "one" / "experiment.json")["places"]["frames"] == "there"


def test_what_is_said_of_the_crops_stands_beside_their_views_once(data, tmp_path):
    lacking, faceless = ({"what": what, "count": 1, "clips": ["a"]} for what in ("no onset", "no face"))
    crops = replace(data[1][0], said=(lacking,))
    views = with_images(crops, crops.images, "views", {"rule": "views", "version": 1}, [faceless])
    for streams in ([views], [crops, views]):
        said = make(data, tmp_path, streams=streams, experiment=f"of{len(streams)}").said
        assert [one for one in said if one in (lacking, faceless)] == [lacking, faceless]


@pytest.mark.parametrize(("dataset", "protocol", "weights", "synthetic", "pretrained"), [
    ("casme", "megc2019", "ImageNet", False, True), ("synthetic", "dsnca", "none", True, False)])
def test_what_was_trained_stands_in_experiment_json_and_in_each_fold(dataset, protocol, weights, synthetic,
                                                                     pretrained, data, tmp_path):
    rule = {"rule": "views", "version": 1, "reconstructor": "mesh", "model": {"face.tflite": "0123"}}
    told = Options(script="train_me_loso", dataset=dataset, data_root=".", result_root=str(tmp_path),
                   experiment="one", seed=4, frames="Cropped", views_root="hers", protocol=protocol,
                   skip_missing=True)
    streams = [data[1][0], replace(data[1][0], kind="views", rule=rule)]
    run = Experiment(told, data[0], streams, NET, weights, "fp32")
    run.start()
    expected = {
        "experiment": "one", "script": "train_me_loso", "dataset": dataset, "synthetic": synthetic, "seed": 4,
        "quick": False, "reconstructor": "mesh", "pretrained": pretrained,
        "weights": {"asked": "none", "found": weights}, "classes": 3,
        "class_names": ["negative", "positive", "surprise"],
        "folds": ["synthetic_sub00", "synthetic_sub01", "synthetic_sub02"],
        "places": {"protocol": protocol, "motion": "frames", "views_root": "hers", "frames": "Cropped",
                   "skip_missing": True}}
    found = read_json(tmp_path / "one" / "experiment.json")
    assert {name: found[name] for name in expected} == expected
    run.save("synthetic_sub00", RESULT, None, torch.device("cpu"))
    expected = {"experiment": "one", "data_sub": "synthetic_sub00", "seed": 4, "reconstructor": "mesh",
                "pretrained": pretrained}
    found = read_json(tmp_path / "one" / "folds" / "synthetic_sub00.json")
    assert {name: found[name] for name in expected} == expected


def test_the_environment_says_where_and_with_which_program_a_fold_was_trained():
    found, root = environment(torch.device("cpu")), Path(__file__).parents[2]
    program = hashlib.sha256()
    for room in ("capsule", "common", "deca", "synthetic"):     # whose files make the numbers
        for path in sorted((root / room).rglob("*.py")):
            program.update(path.read_bytes())
    expected = {"python": platform.python_version(), "torch": torch.__version__, "device_type": "cpu",
                "threads": torch.get_num_threads(), "tf32": False, "program": program.hexdigest()[:16]}
    assert {name: found[name] for name in expected} == expected
    assert found["program"] == PROGRAM and found["threads"] >= 1


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_commit_whose_files_were_edited_ends_in_a_plus(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        return subprocess.run(["git", "-C", str(tmp_path), *who, *words], capture_output=True, text=True,
                              check=True).stdout.strip()

    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(experiment_module, "ROOT", tmp_path)
    assert experiment_module._git_commit() is None              # no repository
    git("init")
    (tmp_path / "a.py").write_text("1\n")
    git("add", "a.py")
    git("commit", "-m", "first")
    git("tag", "-a", "v1", "-m", "first")                       # the commit, not the tag's name
    commit = git("rev-parse", "HEAD")
    assert len(commit) == 40 and experiment_module._git_commit() == commit
    (tmp_path / "a.py").write_text("2\n")
    assert experiment_module._git_commit() == commit + "+"


def moved_apex(clips):
    return replace(clips, table=clips.table.assign(apex_frame=clips.table["apex_frame"] + 1))


def other_rule(streams):
    return [replace(streams[0], rule={"rule": "crop", "version": 2})]


def other_views(streams, version):
    return [streams[0], replace(streams[0], kind="views", rule={"rule": "views", "version": version})]


def other_frames(streams):
    return [replace(streams[0], names=[*streams[0].names[:-1], "synthetic/sub02/EP02/99"])]


@pytest.mark.parametrize(("change", "named"), [
    (lambda d, r: make(d, r, freeze=True), "freeze"),
    (lambda d, r: make(d, r, weights="ImageNet"), "weights"),
    (lambda d, r: make(d, r, precision="bf16"), "precision"),
    (lambda d, r: make(d, r, clips=moved_apex(d[0])), "clip list"),
    (lambda d, r: make(d, r, streams=other_rule(d[1])), "inputs"),
    (lambda d, r: make(d, r, streams=other_frames(d[1])), "frames"),
    (lambda d, r: make(d, r, streams=[replace(d[1][0], pixels="of others")]), "frames"),
    (lambda d, r: make(d, r, net=network("resnet", 3)), "asked"),
    (lambda d, r: make(d, r, epochs=2), "epochs"),
])
def test_what_changes_the_numbers_is_refused_and_named(change, named, data, tmp_path):
    """A changed apex table, crop rule, weights, precision or freezing never goes on in the same folder."""
    first = make(data, tmp_path)
    first.start()
    other = change(data, tmp_path)
    assert other.folder == first.folder
    with pytest.raises(InputError, match=f"another configuration.*{named}"):
        other.start()
    first.save("synthetic_sub00", RESULT, None, torch.device("cpu"))
    said = []
    assert first.finished("synthetic_sub00") and not other.finished("synthetic_sub00", said.append)
    assert "another configuration" in said[0] and "trained again" in said[0]


def test_of_two_streams_each_counts(data, tmp_path):
    make(data, tmp_path, streams=other_views(data[1], 1)).start()
    with pytest.raises(InputError, match=r"another configuration \(inputs 1 version: 1 there, 2 now\)"):
        make(data, tmp_path, streams=other_views(data[1], 2)).start()


@pytest.mark.parametrize(("there", "now", "found"), [
    ([1, 2], [1, 3], [("x 1", 2, 3)]), ([1], [1, 2], [("x", [1], [1, 2])]),
    ({"a": [1]}, {"a": []}, [("x a", [1], [])]), ([1], "no", [("x", [1], "no")]),
    ({"a": {"b": 1}}, {"a": {"b": 2}}, [("x a b", 1, 2)]), ([{}], [{}], [])])
def test_what_is_unlike_in_two_configurations(there, now, found):
    assert unlike("x", there, now) == found


@pytest.mark.parametrize(("option", "named"), [("motion", "motion"), ("views_root", "views_root"),
                                               ("protocol", "clip list")])
def test_what_a_user_gives_counts_by_its_contents_not_by_its_place(option, named, data, tmp_path):
    def at(place, content):
        given = {option: f"{place}/list.csv", "experiment": "one"}
        streams = [replace(data[1][0], rule={"rule": "given", option: content})]
        clips = moved_apex(data[0]) if option == "protocol" and content == "b" else data[0]
        told = Options(script="train", dataset="casme", data_root=".", result_root=str(tmp_path), **given)
        return Experiment(told, clips, data[1] if option == "protocol" else streams, NET, "none", "fp32")

    at("here", "a").start()
    at("there", "a").start()
    assert "there" not in str(at("there", "a").identity)
    with pytest.raises(InputError, match=f"another configuration.*{named}: .* there, .* now"):
        at("there", "b").start()


def test_of_two_model_files_the_exchanged_one_is_named(data, tmp_path):
    for digest in "ab":
        model = {**{f"long_name_{k}.npy": 16 * "0" for k in range(9)}, "uv_face_eye_mask.png": digest}
        run = make(data, tmp_path, streams=[replace(data[1][0], rule={"rule": "views", "model": model})])
        if digest == "a":
            run.start()
    with pytest.raises(InputError, match=r"tion \(inputs 0 model uv_face_eye_mask.png: .a. there, .b. now\)"):
        run.start()


def test_a_renamed_folder_keeps_its_folds(data, tmp_path):
    first = make(data, tmp_path, experiment="one")
    first.start()
    first.save("synthetic_sub00", RESULT, None, torch.device("cpu"))
    first.folder.rename(tmp_path / "two")
    again = make(data, tmp_path, experiment="two")
    again.start()
    assert again.finished("synthetic_sub00") and read_run(tmp_path, "two").finished


def test_folds_are_chosen_by_range(data, tmp_path):
    names = [f"synthetic_sub0{i}" for i in range(3)]
    chosen = {text: make(data, tmp_path, folds=text).chosen for text in ("", "1:", ":1", "1:9")}
    assert chosen == {"": names, "1:": names[1:], ":1": names[:1], "1:9": names[1:]}
    with pytest.raises(InputError, match="selects no fold"):
        make(data, tmp_path, folds="7:9")
    assert not list(tmp_path.iterdir())                  # nothing was left behind


def _hold(experiment, ready, done):
    with experiment.fold_lock("synthetic_sub01") as mine:
        ready.put(mine)
        done.get()


def test_a_lock_keeps_others_out_and_dies_with_its_process(data, tmp_path):
    experiment = make(data, tmp_path)
    context = multiprocessing.get_context("fork")
    ready, done = context.Queue(), context.Queue()
    holder = context.Process(target=_hold, args=(experiment, ready, done))
    holder.start()
    assert ready.get(timeout=30) is True
    for name, free in (("synthetic_sub01", False), ("synthetic_sub02", True)):
        with experiment.fold_lock(name) as mine:
            assert mine is free
    holder.kill()
    holder.join()
    with experiment.fold_lock("synthetic_sub01") as mine:
        assert mine is True


def test_folders_in_the_way_give_one_line(data, tmp_path):
    experiment = make(data, tmp_path)
    experiment.start()
    (experiment.folder / "locks" / "synthetic_sub01.lock").mkdir()
    with pytest.raises(InputError, match=r"synthetic_sub01\.lock"), experiment.fold_lock("synthetic_sub01"):
        pass
    (experiment.folder / "failed" / "synthetic_sub00.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"failed.synthetic_sub00\.json"):
        experiment.save_failure("synthetic_sub00", 1, "nan")
    experiment.save("synthetic_sub00", RESULT, None, torch.device("cpu"))
    assert experiment.finished("synthetic_sub00")


def test_failures_are_noted_and_cleared_and_kept_models_count(data, tmp_path):
    experiment = make(data, tmp_path, save_models=True)
    experiment.save_failure("synthetic_sub00", 5, "the loss is nan")
    assert (experiment.folder / "failed/synthetic_sub00.json").exists()
    make(data, tmp_path).save("synthetic_sub00", RESULT, None, torch.device("cpu"))
    assert not (experiment.folder / "failed/synthetic_sub00.json").exists()
    assert experiment.finished("synthetic_sub00") is None
    experiment.save("synthetic_sub00", RESULT, torch.nn.Linear(2, 2), torch.device("cpu"))
    assert experiment.finished("synthetic_sub00").y_true.tolist() == [0, 1, 2]
    state = torch.load(model_path(experiment, "synthetic_sub00"), weights_only=True)
    assert set(state) == {"weight", "bias"}


@pytest.mark.parametrize("text", ["[]", "null", "5", "{", "[" * 5000, '{"config": 3}', "\x00", ""])
def test_a_broken_fold_file_is_named_and_trained_again(text, data, tmp_path):
    experiment, said = make(data, tmp_path), []
    experiment.fold_path("synthetic_sub00").parent.mkdir(parents=True)
    experiment.fold_path("synthetic_sub00").write_text(text)
    assert experiment.finished("synthetic_sub00", said.append) is None
    assert len(said) == 1 and "synthetic_sub00.json" in said[0] and "\n" not in said[0]


BAD = [("seed", -1), ("seed", 2**40), ("threads", 1_000_000), ("threads", -1), ("epochs", 0),
       ("learning_rate", float("inf")),
       ("learning_rate", float("nan")), ("learning_rate", 0.0), ("lr_decay", -1.0), ("batch_size", 10**30),
       ("workers", 0),
       ("folds", "²:3"), ("folds", "3"), ("folds", "-1:2"), ("experiment", ".."), ("experiment", "."),
       ("experiment", "a\\b"), ("experiment", "a/b"), ("experiment", "a\nb"), ("experiment", " a"),
       ("experiment", "x" * 200),
       ("dataset", "nothing"), ("classes", 4), ("paint", "gold"), ("subset", "some")]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_the_gate_refuses_what_no_run_could_use(name, value):
    with pytest.raises(InputError) as caught:
        Options(**{"script": "s", "dataset": "casme", "data_root": ".", name: value})
    assert name.split("_")[0] in str(caught.value)


def test_motion_and_photographs_do_not_mix():
    with pytest.raises(InputError, match=r"--streams pictures --paint motion: .* use --streams views"):
        Options(script="s", dataset="casme", data_root=".", streams="pictures", paint="motion")


@pytest.mark.parametrize("folder", ["motion", "views_root"])
@pytest.mark.parametrize(("name", "value"), [("reconstructor", "deca"), ("rasterizer", "pytorch3d")])
def test_nothing_is_rendered_beside_ready_pictures(folder, name, value):
    given = {"script": "s", "dataset": "casme", "data_root": ".", folder: "hers"}
    Options(**given)
    with pytest.raises(InputError, match=f"--{name}: not read beside --{folder.replace('_', '-')} FOLDER"):
        Options(**given, **{name: value})


def test_ready_motion_needs_no_frames():
    given = {"script": "s", "dataset": "casme", "data_root": ".", "frames": "Cropped"}
    assert Options(**given, views_root="hers").frames == "Cropped"       # which the crops are cut from
    with pytest.raises(InputError, match="--frames: not read beside --motion FOLDER"):
        Options(**given, motion="hers")


@given(st.text(max_size=30))
def test_only_plain_names_pass(name):
    if not name or is_plain_name(name):
        Options(script="s", dataset="casme", data_root=".", experiment=name)
    else:
        with pytest.raises(InputError):
            Options(script="s", dataset="casme", data_root=".", experiment=name)


@given(st.integers(), st.floats(), st.text(alphabet="0123456789:²-a", max_size=8))
def test_numbers_are_bounded(number, fraction, text):
    for values in ({"seed": number, "threads": number}, {"learning_rate": fraction}, {"folds": text}):
        try:
            options = Options(script="s", dataset="casme", data_root=".", **values)
        except InputError:
            continue
        assert 0 <= options.seed < 2**32 and 0 <= options.threads <= 256 and 0 < options.learning_rate <= 10


def test_options_come_from_constants_and_the_command_line():
    told = parse("text", ["--data-root", ".", "--epochs", "3", "--no-pretrained", "--dataset", "CASME II"],
                 dataset="smic", epochs=30, seed=4)
    assert (told.epochs, told.seed, told.pretrained, told.dataset) == (3, 4, False, "casme")


@pytest.mark.parametrize("option", ["--model", "--reconstructor", "--paint", "--logits", "--freeze"])
def test_options_that_a_script_does_not_use_do_not_exist(option):
    with pytest.raises(SystemExit):
        parse("text", [option, "auto", "--data-root", "."], dataset="casme")


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "gpu", "cuda:x"):
        with pytest.raises(InputError, match="--device"):
            choose_device(name)
