"""The synthetic database: read by the real code, the same bytes each time, faces that dlib finds."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from capsule.data.protocol import load_clips
from common.errors import InputError
from common.images import read_image
from deca.landmarks import LandmarkDetector, crop_square, square_transform, transform_points
from synthetic import database, scene
from synthetic.database import Settings, ensure, make_synthetic, plan_clips, read_truth

COLUMNS = ["Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame", "Action Units",
           "Estimated Emotion"]
SMALL = {"subjects": 2, "clips": 3, "glasses": 0.5, "frames": (7, 7)}


def digest(folder):
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two subjects with three clips each; one wears glasses."""
    root = tmp_path_factory.mktemp("data")
    make_synthetic(root, **SMALL)
    return root


@pytest.fixture(scope="module")
def plan():
    return plan_clips(Settings(subjects=5, clips=6))


def test_the_real_code_reads_it(root):
    clips = load_clips("synthetic", root)
    assert clips.subjects == ("synthetic_sub01", "synthetic_sub02")
    assert clips.per_class == (2, 2, 2)
    for moment in ("onset", "apex", "offset"):
        paths = [root / path for path in clips.table[f"{moment}_frame_path"]]
        assert all(path.is_file() for path in paths)
    truth = {(clip["subject"], clip["clip"]): clip for clip in read_truth(root)["clips"]}
    for row in clips.table.itertuples():
        clip = truth[row.subject, row.clip]
        frames = row.onset_frame, row.apex_frame, row.offset_frame
        assert frames == (clip["onset"], clip["apex"], clip["offset"])
        assert row.label == clip["label"]
        assert len(list((root / row.apex_frame_path).parent.iterdir())) == 7


def test_layout_sheet_and_label(root):
    folder = root / "synthetic"
    table = pd.read_excel(folder / "CASME2-coding-20140508.xlsx", dtype={"Action Units": str})
    assert list(table.columns) == COLUMNS
    assert set(table["Estimated Emotion"]) == {"disgust", "happiness", "surprise"}
    assert set(table.loc[table["Estimated Emotion"] == "happiness", "Action Units"]) == {"6+12"}
    assert sorted(path.name for path in folder.iterdir()) == [
        "CASME2-coding-20140508.xlsx", "README.txt", "sub01", "sub02", "synthetic.json"]
    assert "synthetic" in (folder / "README.txt").read_text().lower()
    assert read_truth(root)["synthetic"] is True
    images = sorted(folder.rglob("*.jpg"))
    assert len(images) == 2 * 3 * 7
    assert read_image(images[0]).shape == (340, 280, 3)


def test_same_seed_same_bytes_whatever_the_threads(root, tmp_path, monkeypatch):
    monkeypatch.setattr(database.os, "cpu_count", lambda: 1)
    make_synthetic(tmp_path, **SMALL)
    assert digest(tmp_path / "synthetic") == digest(root / "synthetic")


def test_another_seed_gives_other_clips():
    first, other = (plan_clips(Settings(subjects=1, clips=1, seed=seed))[0] for seed in (0, 1))
    assert not np.allclose(first[0].shape, other[0].shape)
    assert first[1][0].movement != other[1][0].movement


def test_dlib_finds_every_face_and_the_crop_lies_inside(root):
    detector = LandmarkDetector()
    for path in sorted((root / "synthetic").rglob("*.jpg"))[::5]:
        found = detector.detect(read_image(path))
        assert found is not None, path
        center, side = crop_square(found.points)
        assert (center - side / 2 > -5).all() and (center + side / 2 < (285, 345)).all()


def test_landmarks_lie_where_dlib_sees_them(root):
    """The truth's landmarks against dlib's, in pixels of the 224 crop."""
    detector = LandmarkDetector()
    for subject, clips in plan_clips(Settings(**SMALL)):
        clip = clips[0]
        image = read_image(root / "synthetic" / clip.subject / clip.name / f"img{clip.frames[0]}.jpg")
        expression = np.zeros((1, 14))
        posed = scene.stage().pose(subject.shape, expression, clip.poses[:1])
        true = scene.project_pixels(posed.landmarks3d.numpy(), subject, clip.shift[:1])[0]
        seen = detector.detect(image).points
        away = np.linalg.norm(seen - true, axis=1)[17:] * scene.crop_scale(true)     # not the jaw
        assert np.median(away) < 4


@pytest.mark.parametrize("intensity", ["normal", "micro"])
def test_the_strongest_landmark_moves_as_far_as_asked(intensity):
    low, high = database.INTENSITIES[intensity]
    for subject, clips in plan_clips(Settings(subjects=2, clips=6, intensity=intensity)):
        for clip in clips:
            exp = np.outer(clip.intensity, database._coefficients(clip.action_units))
            still = np.tile(clip.poses[:1], (len(exp), 1))
            posed = scene.stage().pose(subject.shape, exp, still)
            no_shift = np.zeros((len(exp), 2))
            pixels = scene.project_pixels(posed.landmarks3d.numpy(), subject, no_shift)
            matrix = square_transform(*crop_square(pixels[0]))
            crop = transform_points(matrix, pixels)
            moved = np.linalg.norm(crop - crop[0], axis=2).max(1)
            assert low <= moved.max() <= high
            assert clip.first_frame + moved.argmax() == clip.apex
            assert moved[0] == 0 and moved[-1] == pytest.approx(0, abs=1e-3)


def test_classes_glasses_and_apexes_of_a_larger_plan(plan):
    assert sum(subject.glasses is not None for subject, _ in plan) == 2                        # 40 % of 5
    apexes = set()
    for _, clips in plan:
        assert sorted(clip.label for clip in clips) == [0, 0, 1, 1, 2, 2]
        assert len({clip.name for clip in clips}) == 6
        for clip in clips:
            assert 9 <= len(clip.frames) <= 15
            assert clip.frames[0] + 2 < clip.apex < clip.frames[-1] - 2
            apexes.add(clip.apex - clip.frames[0])
            rise = np.diff(clip.intensity)
            top = clip.intensity.argmax()
            assert (rise[:top] > 0).all() and (rise[top:] < 0).all()
    assert len(apexes) >= 5


@pytest.mark.parametrize(("share", "wearers"), [(0, 0), (1, 3)])
def test_glasses_share_changes_the_glasses_only(plan, share, wearers):
    same = plan_clips(Settings(subjects=3, clips=6, glasses=share))
    assert sum(subject.glasses is not None for subject, _ in same) == wearers
    for (subject, clips), (other, other_clips) in zip(same, plan, strict=False):
        assert np.array_equal(subject.texture, other.texture)
        assert np.array_equal(subject.light, other.light)
        for clip, other_clip in zip(clips, other_clips, strict=True):
            assert (clip.name, clip.label, clip.action_units) == (
                other_clip.name, other_clip.label, other_clip.action_units)
            assert np.array_equal(clip.poses, other_clip.poses)


def test_glasses_cover_the_eyes_only():
    """The same person with and without: the pictures differ round the eyes, and nowhere near the mouth."""
    pictures = []
    for worn in (False, True):
        subject = scene.sample_subject(np.random.default_rng(5), worn)
        still = np.zeros((1, 14)), np.zeros((1, 6)), np.zeros((1, 2))
        frames = scene.render_clip(subject, *still, {}, np.random.default_rng(0))
        pictures.append(frames[0].astype(int))
        posed = scene.stage().pose(subject.shape, *still[:2])
        points = scene.project_pixels(posed.landmarks3d.numpy(), subject, still[2])[0]
    changed = np.abs(pictures[0] - pictures[1]).max(2) > 8
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


def test_an_interrupted_run_goes_on_and_ends_the_same(root, tmp_path, monkeypatch):
    real, rendered = scene.render_clip, []

    def render(*arguments):
        if len(rendered) == 3:
            raise KeyboardInterrupt
        rendered.append(1)
        return real(*arguments)

    monkeypatch.setattr(scene, "render_clip", render)
    monkeypatch.setattr(database.os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path, **SMALL)
    assert not (tmp_path / "synthetic").exists()
    stray = next(tmp_path.rglob("img*.jpg")).parent / ".img46.jpg.x.part.jpg"
    stray.write_bytes(b"half")
    again = []
    monkeypatch.setattr(scene, "render_clip", lambda *given: again.append(1) or real(*given))
    make_synthetic(tmp_path, **SMALL)
    assert len(again) == 3
    assert digest(tmp_path / "synthetic") == digest(root / "synthetic")


@pytest.mark.parametrize("settings", [
    {"subjects": 0}, {"clips": 100}, {"glasses": 1.5}, {"glasses": float("nan")}, {"intensity": "macro"},
    {"seed": -1}, {"frames": (3, 5)}, {"frames": (12, 9)}])
def test_settings_that_make_no_sense(tmp_path, settings):
    with pytest.raises(InputError):
        make_synthetic(tmp_path, **settings)
    assert not any(tmp_path.iterdir())


def test_a_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="data-root"):
        make_synthetic(tmp_path / "file", subjects=1, clips=1)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not a whole synthetic database"):
        make_synthetic(tmp_path, subjects=1, clips=1)
    assert (tmp_path / "synthetic" / "mine.txt").read_text() == "x"


def test_two_at_once_make_it_once(tmp_path, monkeypatch):
    real, rendered = scene.render_clip, []
    monkeypatch.setattr(scene, "render_clip", lambda *given: rendered.append(1) or real(*given))
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(make_synthetic, tmp_path, subjects=1, clips=2, frames=(7, 7)) for _ in range(2)]
        folders = {future.result() for future in made}
    assert folders == {tmp_path / "synthetic"}
    assert len(rendered) == 2


def test_command_line(tmp_path, capsys):
    database.main(["--data-root", str(tmp_path), "--subjects", "1", "--clips", "1", "--glasses", "1",
                    "--intensity", "micro", "--seed", "4"])
    out = capsys.readouterr().out
    assert "1 synthetic clips" in out and "glasses: sub01" in out
    settings = read_truth(tmp_path)["settings"]
    assert (settings["intensity"], settings["seed"], settings["glasses"]) == ("micro", 4, 1.0)
