"""Apex spotting: the cells and the feature by hand, and a whole run on a face that really moves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from skimage.data import astronaut, coffee

from capsule import spotting
from capsule.data.protocol import COLUMNS
from capsule.spotting import judge, merged_table, spot_clips
from common.errors import InputError
from common.images import write_image
from deca.landmarks import LandmarkDetector
from tests.scripts import run_script

ROOT = Path(__file__).parents[2]


def _landmarks():
    """68 points with the ones that the cells use at known places; half a mouth is 10 pixels."""
    points = np.zeros((68, 2))
    for index, place in {48: (40, 80), 54: (60, 82), 19: (38, 40), 24: (62, 42), 8: (50, 110), 31: (46, 64),
                         35: (54, 64), 36: (36, 50), 45: (64, 52)}.items():
        points[index] = place
    return points


def test_the_ten_cells_by_hand():
    found = [(rows.start, rows.stop, columns.start, columns.stop)
             for rows, columns in spotting.cells(_landmarks(), (120, 100))]
    assert found == [
        (75, 85, 35, 45), (77, 87, 55, 65),                         # mouth corners
        (36, 46, 35, 45), (36, 46, 45, 55), (36, 46, 55, 65),       # brows: left, middle, right
        (100, 110, 45, 55),                                         # chin
        (65, 75, 36, 46), (67, 77, 54, 64),                         # beside the nose
        (45, 55, 26, 36), (47, 57, 64, 74)]                         # beside the eyes


def test_cells_outside_the_picture_are_left_out():
    found = spotting.cells(_landmarks() - [0, 100], (120, 100))
    assert len(found) == 1                                          # all but the chin, cut to the picture
    assert (found[0][0].start, found[0][0].stop) == (0, 10)


def test_the_feature_by_hand():
    flat = np.zeros((4, 120, 100), np.float32)
    flat[1], flat[2], flat[3] = 3, 5, 1                             # onset 0, offset 1
    feature = spotting.apex_feature(flat, np.stack([_landmarks()] * 4))
    # t=1: (3+1)/(3+1) + (2+1)/(3+1); t=2: (5+1)/(2+1) + (4+1)/(2+1); t=3: (1+1)/(4+1) + (0+1)/(4+1)
    assert feature == pytest.approx([0, 7 / 4, 11 / 3, 3 / 5])


def _clip(folder, frames, top):
    """Frames of one clip: the mouth of skimage's astronaut opens until frame `top` and closes again."""
    face = astronaut()[0:280, 90:340]
    mouth = LandmarkDetector().detect(face).points[48:].mean(0)
    rows, columns = np.mgrid[0:280, 0:250].astype(np.float32)
    near = np.exp(-((columns - mouth[0]) ** 2 + (rows - mouth[1]) ** 2) / (2 * 18.0**2))
    for t in range(frames):
        size = 6 * np.exp(-((t - top) / 2.5) ** 2)
        moved = cv2.remap(face, columns, rows - (size * near * np.sign(rows - mouth[1])).astype(np.float32),
                          cv2.INTER_LINEAR)
        write_image(folder / f"image{100 + t}.png", moved)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A data root with two SMIC clips that have frames and one that has none."""
    root = tmp_path_factory.mktemp("data")
    _clip(root / "smic/SMIC_HS_E/s01/s1_ne_01", 12, 6)
    _clip(root / "smic/SMIC_HS_E/s02/s2_po_01", 12, 4)
    rows = [(1, "s1_ne_01", 100, 111, "negative"), (2, "s2_po_01", 100, 111, "positive"),
            (2, "s2_po_02", 100, 111, "positive")]
    sheet = pd.DataFrame(rows, columns=["Subject", "Filename", "OnsetF", "OffsetF", "Emotion"])
    sheet.to_csv(root / "smic/SMIC-HS-E_annotation.csv", index=False)
    return root


def test_a_moving_mouth_is_spotted(database):
    paths = sorted((database / "smic/SMIC_HS_E/s01/s1_ne_01").iterdir())
    index, feature = spotting.spot_apex(paths)
    assert abs(index - 6) <= 1
    assert feature[0] == 0 and feature.shape == (12,)


def test_no_face_and_too_few_frames_are_named(tmp_path):
    for n in range(3):
        write_image(tmp_path / f"{n}.png", np.full((60, 60, 3), n, np.uint8))
    paths = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="no face found"):
        spotting.spot_apex(paths)
    with pytest.raises(InputError, match="three or more"):
        spotting.spot_apex(paths[:2])
    write_image(tmp_path / "2.png", np.zeros((50, 60, 3), np.uint8))
    with pytest.raises(InputError, match="differ in size"):
        spotting.spot_apex(paths)


def _run(database, result, *options):
    return subprocess.run([sys.executable, str(ROOT / "smic_processing.py"), "--data-root", str(database),
                           "--result-root", str(result), "--workers", "2", *options],
                          capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)


def test_the_script_whole_and_again(database, tmp_path):
    first = _run(database, tmp_path)
    assert first.returncode == 1                    # one clip has no frames, and is named
    assert "smic: no frames of 1 of 3 clips are on disk; smic/2/s2_po_02: looked for" in first.stdout
    table = pd.read_csv(database / "annotations/smic_apex.csv")
    assert list(table["clip"]) == ["s1_ne_01", "s2_po_01"]
    assert list((table["apex_frame"] - [106, 104]).abs() <= 1) == [True, True]
    assert table["apex_frame_path"][0] == f"smic/SMIC_HS_E/s01/s1_ne_01/image{table['apex_frame'][0]}.png"
    plots = {path: path.stat().st_mtime_ns for path in (tmp_path / "smic_apex").iterdir()}
    assert {path.suffix for path in plots} == {".json", ".png"} and len(plots) == 4
    again = _run(database, tmp_path)
    assert "2 spotted already, 0 to do" in again.stdout
    assert plots == {path: path.stat().st_mtime_ns for path in (tmp_path / "smic_apex").iterdir()}


def test_a_broken_or_foreign_result_is_made_again(database, tmp_path):
    table = pd.DataFrame([{"data": "smic", "subject": "1", "clip": "s1_ne_01", "onset_frame": 100,
                           "offset_frame": 111}])
    apexes, problems = spot_clips(table, database, tmp_path, 1)
    stored = tmp_path / "smic_1_s1_ne_01.json"
    for text in ("{", "[]", json.dumps({"key": "other", "apex": 100})):
        stored.write_text(text)
        assert spot_clips(table, database, tmp_path, 1) == (apexes, problems)
        assert json.loads(stored.read_text())["apex"] == apexes[0]


def test_an_apex_that_shows_no_face_is_said_each_time(database, tmp_path):
    shutil.copytree(database, tmp_path / "data")
    cups = [tmp_path / f"data/smic/SMIC_HS_E/s01/s1_ne_01/image{number}.png" for number in (104, 105)]
    table = pd.DataFrame([{"data": "smic", "subject": "1", "clip": "s1_ne_01", "onset_frame": 100,
                           "offset_frame": 111}])
    assert spot_clips(table, tmp_path / "data", tmp_path, 1)[1] == []
    for cup in cups:        # two alike: the second differs from the ends alone
        write_image(cup, coffee()[:280, :250])
    for _ in range(2):
        apexes, (problem,) = spot_clips(table, tmp_path / "data", tmp_path, 1)
        assert apexes == [105] and problem.startswith(f"{cups[1]}: the apex, but no face")


def test_a_frame_exchanged_for_one_of_its_size_and_time_counts(database, tmp_path):
    shutil.copytree(database, tmp_path / "data")
    folder = tmp_path / "data/smic/SMIC_HS_E/s01/s1_ne_01"
    table = pd.DataFrame([{"data": "smic", "subject": "1", "clip": "s1_ne_01", "onset_frame": 100,
                           "offset_frame": 111}])
    largest = max(path.stat().st_size for path in folder.iterdir())
    for path in folder.iterdir():       # what follows a PNG's end is not read
        path.write_bytes(path.read_bytes().ljust(largest, b"\0"))
        os.utime(path, (0, 0))
    (before,), _ = spot_clips(table, tmp_path / "data", tmp_path, 1)
    pictures = [folder / f"image{number}.png" for number in (before, 102)]
    for path, data in zip(pictures, [path.read_bytes() for path in pictures][::-1], strict=True):
        path.write_bytes(data)
        os.utime(path, (0, 0))
    assert spot_clips(table, tmp_path / "data", tmp_path, 1)[0] != [before]


def test_frames_that_lack_between_onset_and_offset_are_said(database, tmp_path):
    shutil.copytree(database, tmp_path / "data")
    folder = tmp_path / "data/smic/SMIC_HS_E/s01/s1_ne_01"
    for number in (104, 107):
        (folder / f"image{number}.png").unlink()
    table = pd.DataFrame([{"data": "smic", "subject": "1", "clip": "s1_ne_01", "onset_frame": 100,
                           "offset_frame": 111}])
    for _ in ("spotted now", "spotted already"):
        apexes, problems = spot_clips(table, tmp_path / "data", tmp_path, 1)
        assert apexes[0] in range(100, 112) and len(problems) == 1
        assert problems[0].startswith("smic/1/s1_ne_01: 2 frame(s) between onset and offset are not on disk")


def _spotted(path, rows):
    path.parent.mkdir(exist_ok=True, parents=True)
    pd.DataFrame(rows, columns=["subject", "clip", "apex_frame", "apex_frame_path"]).to_csv(path, index=False)


def test_a_run_without_frames_leaves_the_table_as_it_is(database, tmp_path, monkeypatch, capsys):
    """The apexes are spotted already, then the script runs once with the pictures elsewhere."""
    def run():
        arguments = ("--data-root", root, "--result-root", tmp_path, "--workers", 1)
        assert run_script(monkeypatch, "smic_processing.py", *arguments) == 1
        return capsys.readouterr().out

    root = tmp_path / "data"
    (root / "smic").mkdir(parents=True)
    (root / "smic/SMIC-HS-E_annotation.csv").write_bytes(
        (database / "smic/SMIC-HS-E_annotation.csv").read_bytes())
    table = root / "annotations/smic_apex.csv"
    assert "not written" in run() and not table.exists()
    _spotted(table, [("1", "s1_ne_01", 105, "a/1.png"), ("2", "S2_po_01", 104, ""), ("9", "s9_other", 7, "")])
    assert "3 rows, 3 of them kept from before" in run()
    kept = pd.read_csv(table, dtype=str, keep_default_na=False)
    assert list(kept.columns) == COLUMNS
    assert list(zip(kept["clip"], kept["apex_frame"], kept["apex_frame_path"], strict=True)) == [
        ("s1_ne_01", "105", "a/1.png"), ("S2_po_01", "104", ""), ("s9_other", "7", "")]
    before = table.read_bytes()
    run()
    assert table.read_bytes() == before


def test_new_apexes_replace_their_rows_and_others_stay(database, tmp_path):
    path = tmp_path / "smic_apex.csv"
    _spotted(path, [("2", "S2_PO_01", 101, ""), ("1", "s1_ne_01", 102, ""), ("9", "s9_other", 7, "")])
    table = pd.DataFrame({"data": "smic", "subject": ["1", "2"], "clip": ["s1_ne_01", "s2_po_01"],
                          "label": [0, 1], "onset_frame": 100, "offset_frame": 111,
                          "data_sub": ["smic_1", "smic_2"], "emotion": ["negative", "positive"]})
    before = table.copy()
    merged, kept = merged_table(path, table, [None, 104], database)
    assert kept == 2 and list(zip(merged["clip"], merged["apex_frame"], strict=True)) == [
        ("s1_ne_01", "102"), ("s2_po_01", "104"), ("s9_other", "7")]
    namesake = table.assign(subject=["1", "9"], clip="same")     # CASME II's subjects share names
    namesake.assign(apex_frame=[101, 102]).to_csv(tmp_path / "two.csv", index=False)
    both, kept = merged_table(tmp_path / "two.csv", namesake, [None, 105], database)
    assert kept == 1 and list(zip(both["subject"], both["apex_frame"], strict=True)) == [("1", "101"),
                                                                                         ("9", "105")]
    assert list(merged["apex_frame_path"]) == ["", "smic/SMIC_HS_E/s02/s2_po_01/image104.png", ""]
    pd.testing.assert_frame_equal(table, before)
    # As Excel may save it: semicolons, blank rows, columns without a name, spaces.
    path.write_text("\nsubject;clip;apex_frame;;\n\ns01 ;S1_NE_01;102;;note\n09; s9_other ;7;;\n")
    merged, kept = merged_table(path, table, [103, None], database)
    assert kept == 1 and list(zip(merged["subject"], merged["apex_frame"], strict=True)) == [("1", "103"),
                                                                                             ("9", "7")]
    path.write_text("")
    assert merged_table(path, table, [103, None], database)[1] == 0
    for text, says in (("a,b\n1,2\n", "not a table of apexes"), ("clip,clip\n", "not a table"),
                       ("subject,clip\nx,y\n", "row 2: Subject is 'x'")):
        path.write_text(text)
        with pytest.raises(InputError, match=says):
            merged_table(path, table, [103, 104], database)


def test_ctrl_c_ends_with_one_line(database, tmp_path):
    command = [sys.executable, str(ROOT / "smic_processing.py"), "--data-root", str(database)]
    command += ["--result-root", str(tmp_path), "--workers", "1"]
    process = subprocess.Popen(command, text=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while "to do" not in process.stdout.readline():
        pass
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "go on" in errors.strip().splitlines()[-1] and "Traceback" not in errors


def test_judged_by_hand():
    table = pd.DataFrame({"apex_frame": [10, 20, 30, 40]})
    assert judge(table, [10, 23, None, 42]) == {"clips": 3, "mean_error": pytest.approx(5 / 3),
                                                "within_2": pytest.approx(2 / 3)}
