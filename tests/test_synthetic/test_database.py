"""The synthetic database: read by the real code, the same bytes each time, all that is asked for and no
more."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import filelock
import numpy as np
import pandas as pd
import pytest

from capsule.data import load_clips
from common.errors import InputError
from common.files import read_json
from common.images import read_image
from deca.landmarks import LandmarkDetector, crop_square
from synthetic import database, scene
from synthetic.__main__ import main
from synthetic.clips import Settings, coefficients, plan_people
from synthetic.database import ensure, make_synthetic
from synthetic.mesh import build_head

SMALL = {"people": 2, "clips": 3, "glasses": 0.5, "frames": (7, 7)}


def digest(folder):
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two people with three clips each; one wears glasses."""
    root = tmp_path_factory.mktemp("data")
    make_synthetic(root, **SMALL)
    return root


def test_the_real_code_reads_it(root):
    clips = load_clips("synthetic", str(root))
    assert clips.subjects == ("synthetic_sub01", "synthetic_sub02")
    assert clips.per_class == (2, 2, 2)
    manifest = read_json(root / "synthetic/synthetic.json")
    truth = {(clip["subject"], clip["clip"]): clip for clip in manifest["clips"]}
    for row in clips.table.itertuples():
        clip = truth[row.subject, row.clip]
        frames = row.onset_frame, row.apex_frame, row.offset_frame
        assert frames == (clip["onset"], clip["apex"], clip["offset"]) and sorted(frames) == list(frames)
        assert row.label == clip["label"]


def test_layout_sheet_and_label(root):
    folder = root / "synthetic"
    table = pd.read_excel(folder / "CASME2-coding-20140508.xlsx", dtype={"Action Units": str})
    assert list(table.columns) == ["Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame",
                                   "Action Units", "Estimated Emotion"]
    assert set(table.loc[table["Estimated Emotion"] == "happiness", "Action Units"]) <= {"6+12", "12"}
    assert {path.name for path in folder.iterdir()} == {"CASME2-coding-20140508.xlsx", "README.txt", "sub01",
                                                        "sub02", "synthetic.json"}
    assert "no person is shown" in (folder / "README.txt").read_text()
    images = sorted(folder.rglob("*.jpg"))
    assert len(images) == 2 * 3 * 7 and read_image(images[0]).shape == (340, 280, 3)


def test_same_seed_same_bytes_whatever_the_threads(root, tmp_path, monkeypatch):
    monkeypatch.setattr(database.os, "cpu_count", lambda: 1)
    make_synthetic(tmp_path, **SMALL)
    assert digest(tmp_path / "synthetic") == digest(root / "synthetic")


def test_another_seed_gives_other_people_and_clips():
    (first, clips), (other, others) = (next(plan_people(Settings(people=1, clips=1, seed=s))) for s in (0, 1))
    assert not np.allclose(first.rest, other.rest) and clips[0].movement != others[0].movement


def test_dlib_finds_every_face_and_the_crop_lies_inside(root):
    detector = LandmarkDetector()
    for path in sorted((root / "synthetic").rglob("*.jpg"))[::6]:
        found = detector.detect(read_image(path))
        assert found is not None, path
        center, side = crop_square(found.points)
        assert (center - side / 2 > -8).all() and (center + side / 2 < (288, 348)).all()


def test_the_strongest_landmark_moves_as_far_as_planned():
    for person, clips in plan_people(Settings(people=1, clips=6, intensity=4.0)):
        for clip in clips:
            assert 4.0 * 0.9 <= clip.movement <= 4.0 * 1.1
            actions = np.outer(clip.intensity, coefficients(clip.action_units))
            heads = scene.posed(person, actions, np.zeros((len(actions), 3)), clip.uneven)
            pixels = scene.project(heads[:, build_head().landmarks], person, np.zeros((len(actions), 2)))
            _, side = crop_square(pixels[0])
            way = np.linalg.norm(pixels - pixels[0], axis=2).max(1) * 224 / side
            assert way.max() == pytest.approx(clip.movement, rel=0.01)
            assert clip.onset + way.argmax() == clip.apex and way[0] == 0 and way[-1] < 1e-3


def test_a_plan_of_several_people():
    apexes = set()
    for _, clips in plan_people(Settings(people=2)):
        assert len({clip.name for clip in clips}) == 8
        for clip in clips:
            assert 9 <= clip.offset - clip.onset + 1 <= 15
            assert clip.onset + 2 < clip.apex < clip.offset - 2
            apexes.add(clip.apex - clip.onset)
    assert len(apexes) >= 4


def test_difficulty_is_what_is_asked_for():
    """Without: nothing but the expression moves. With: the head turns so many degrees, more actions come."""
    for motion, distractors in ((0.0, 0.0), (6.0, 1.0)):
        for _, clips in plan_people(Settings(people=1, head_motion=motion, distractors=distractors)):
            extra = []
            for clip in clips:
                top = clip.intensity.argmax()
                assert np.rad2deg(np.linalg.norm(clip.turns[top] - clip.turns[0])) == pytest.approx(motion)
                assert np.linalg.norm(clip.shift[top]) == pytest.approx(motion)
                own = np.outer(clip.intensity, coefficients(clip.action_units))
                extra.append(np.abs(clip.actions - own).max())
            assert (np.array(extra) > 0.1).all() if distractors else np.max(extra) == 0


def test_the_share_of_glasses_changes_the_glasses_only():
    plans = [plan_people(Settings(people=2, clips=3, glasses=glasses)) for glasses in (0, 1)]
    for (bare, clips), (worn, others) in zip(*plans, strict=True):
        assert bare.glasses is None and worn.glasses is not None
        for one, other in [(bare, worn), *zip(clips, others, strict=True)]:
            names = {field.name for field in fields(one)} - {"glasses"}
            assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_glasses_cover_the_eyes_only():
    """The same person with and without: the pictures differ round the eyes, and nowhere near the mouth."""
    still = coefficients({})[None], np.zeros((1, 3)), np.zeros((1, 2)), np.array([[0.0, 0.0, 1.0]])
    people = [scene.sample_person(np.random.default_rng(5), worn) for worn in (False, True)]
    bare, worn = (scene.film(person, *still, np.random.default_rng(0))[0].astype(int) for person in people)
    points = scene.project(people[0].rest[None, build_head().landmarks], people[0], np.zeros((1, 2)))[0]
    changed = np.abs(bare - worn).max(2) > 8
    left, top = points[36:48].min(0).astype(int)
    right, bottom = points[36:48].max(0).astype(int)
    assert changed[top:bottom, left:right].mean() > 0.3
    assert not changed[int(points[33, 1]) + 10:].any()


def test_a_second_call_finds_it_and_other_settings_are_refused(root):
    folder = root / "synthetic"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert ensure(root) == folder
    assert make_synthetic(root, **SMALL) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(InputError, match="other settings"):
        make_synthetic(root, **{**SMALL, "seed": 1})


def test_a_database_of_an_older_recipe_is_said(root, tmp_path, capsys):
    shutil.copytree(root / "synthetic", tmp_path / "synthetic")
    load_clips("synthetic", tmp_path)
    assert "another version" not in capsys.readouterr().out
    facts = json.loads((root / "synthetic" / "synthetic.json").read_text())
    for made in ({**facts["settings"], "recipe": 1}, "no settings"):
        (tmp_path / "synthetic" / "synthetic.json").write_text(json.dumps({**facts, "settings": made}))
        load_clips("synthetic", tmp_path)
        assert "made by another version of this program" in capsys.readouterr().out


def test_the_database_itself_is_no_data_root(root):
    with pytest.raises(InputError, match="synthetic: a synthetic database itself; give the folder above it"):
        load_clips("synthetic", root / "synthetic")
    assert not (root / "synthetic/synthetic").exists()


def test_an_interrupted_run_leaves_nothing_of_itself(tmp_path, monkeypatch):
    real, one = database._film, {"people": 1, "clips": 2, "frames": (7, 7)}

    def stopped(folder, person, clip, rng):
        (folder / "half").mkdir(parents=True, exist_ok=True)     # two clips at once
        raise KeyboardInterrupt

    monkeypatch.setattr(database, "_film", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path, **one)
    assert not (tmp_path / "synthetic").exists() and (tmp_path / ".synthetic.unfinished/half").exists()
    monkeypatch.setattr(database, "_film", real)
    folder = make_synthetic(tmp_path, **one)
    assert not list(tmp_path.rglob("half")) and len(list(folder.rglob("*.jpg"))) == 14


@pytest.mark.parametrize("settings", [
    {"people": 0}, {"clips": 100}, {"glasses": 1.5}, {"glasses": float("nan")}, {"intensity": 0},
    {"seed": -1}, {"head_motion": 30}, {"distractors": -1}, {"frames": (3, 5)}, {"frames": (12, 9)}])
def test_settings_that_make_no_sense(tmp_path, settings):
    with pytest.raises(InputError):
        make_synthetic(tmp_path, **settings)
    assert not any(tmp_path.iterdir())


def test_a_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="data-root"):
        make_synthetic(tmp_path / "file", people=1, clips=1)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not a whole synthetic database"):
        make_synthetic(tmp_path, people=1, clips=1)
    assert (tmp_path / "synthetic" / "mine.txt").read_text() == "x"


def test_two_at_once_make_it_once(tmp_path, monkeypatch):
    real, filmed = database._film, []
    monkeypatch.setattr(database, "_film", lambda *given: filmed.append(1) or real(*given))
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(make_synthetic, tmp_path, people=1, clips=2, frames=(7, 7)) for _ in range(2)]
        assert {future.result() for future in made} == {tmp_path / "synthetic"}
    assert len(filmed) == 2


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(database, "_film", lambda folder, *given: folder.mkdir(exist_ok=True))
    asked = {"people": 1, "glasses": 1.0, "intensity": 2.5, "seed": 4, "head_motion": 5.0, "distractors": 0.0}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    main(["--data-root", str(tmp_path), *options])
    assert "synthetic clips" in capsys.readouterr().out
    settings = read_json(tmp_path / "synthetic/synthetic.json")["settings"]
    assert {name: settings[name] for name in asked} == asked


def test_settings_that_cannot_be_end_with_one_line(tmp_path):
    done = subprocess.run([sys.executable, "-m", "synthetic", "--data-root", str(tmp_path), "--people", "0"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("synthetic: ") and done.stderr.count("\n") == 1


def test_a_training_waits_for_a_database_of_any_settings(root, tmp_path):
    """`python -m synthetic --people 2` is at work in another terminal."""
    with ThreadPoolExecutor(1) as threads:
        with filelock.FileLock(tmp_path / ".synthetic.lock", thread_local=False):
            waiting = threads.submit(ensure, tmp_path)
            time.sleep(0.5)
            shutil.copytree(root / "synthetic", tmp_path / "synthetic")
        assert waiting.result(60) == tmp_path / "synthetic"
    assert read_json(tmp_path / "synthetic/synthetic.json")["settings"]["people"] == 2
