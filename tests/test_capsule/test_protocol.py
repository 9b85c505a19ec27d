"""Clip lists: the published counts from the real sheets, the rules on small sheets, and every bad sheet."""

import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsule.data.protocol import (
    COLUMNS,
    EXPECTED,
    annotation_table,
    load_clips,
    smic_onsets,
)
from capsule.data.sheets import frame_number, read_columns
from common.errors import InputError
from tests.make_database import make_database

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / ".." / "shared" / "reference"
CASME = "CASME2-coding-20140508"
real_sheets = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the owners' sheets are not here")


def options(data_root, dataset="casme", **changes):
    values = {"dataset": dataset, "classes": 3, "protocol": "dsnca", "subset": "all", "skip_missing": False}
    return types.SimpleNamespace(**{**values, "data_root": str(data_root), **changes})


def casme_sheet(root, rows, header=("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame",
                                    "Estimated Emotion")):
    text = "\n".join(",".join(map(str, row)) for row in (header, *rows))
    (root / f"{CASME}.csv").write_text(text + "\n")
    return root


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sheets")
    for path in REFERENCE.glob("*.xlsx"):
        shutil.copy(path, root)
    shutil.copy(REFERENCE / "smic_apex_frames.csv", root)
    return root


@real_sheets
@pytest.mark.parametrize("case", EXPECTED, ids=lambda case: "-".join(map(str, case)))
def test_published_counts_come_out_of_the_owners_sheets(sheets, case):
    dataset, classes, protocol, subset = case
    clips = load_clips(options(sheets, dataset, classes=classes, protocol=protocol, subset=subset))
    assert (len(clips.table), len(clips.subjects), clips.per_class) == EXPECTED[case]
    assert clips.notes["check"] == "matches the protocol"
    assert list(clips.table.columns) == COLUMNS


@real_sheets
def test_glasses_subset_by_database(sheets):
    table = load_clips(options(sheets, "composite", subset="glasses")).table
    assert table["data"].value_counts().to_dict() == {"casme": 65, "smic": 66, "samm": 15}


@real_sheets
def test_corrections_and_names_of_the_owners_sheets(sheets):
    clips = load_clips(options(sheets, "composite"))
    rows = dict(zip(clips.keys, clips.table.itertuples(), strict=True))
    assert rows["casme/sub04/EP12_01f"].apex_frame == 321
    assert [rows[f"casme/sub24/{clip}"].label for clip in ("EP07_01", "EP07_04f", "EP10_03")] == [2, 2, 2]
    assert len(clips.notes["corrections"]) == 3 and clips.notes["order"] == []
    assert {rows["smic/20/s20_ne_01"].data_sub, rows["samm/006/006_1_2"].data_sub} == {"smic_20", "samm_006"}
    assert rows["smic/20/s20_ne_01"].apex_frame == 17581046 and rows["samm/006/006_1_2"].apex_frame == 5588
    assert list(dict.fromkeys(clips.table["data"])) == ["casme", "smic", "samm"]
    assert not clips.apex_on_disk.any()


@real_sheets
def test_megc2019_is_the_list_of_the_public_predictions(sheets):
    """Subject, clip and label of all 435, in the same order."""
    clips = load_clips(options(sheets, "composite", protocol="megc2019"))
    public = pd.read_csv(REFERENCE / "capsulenet_predictions.csv", dtype=str)
    numbers = clips.table["subject"].str.extract(r"(\d+)")[0].astype(int)
    data = clips.table["data"].replace("casme", "casme2")
    ours = list(zip(data, numbers, clips.table["clip"], clips.labels, strict=True))
    theirs = list(zip(public["data"], public["subject"].str.extract(r"(\d+)")[0].astype(int), public["clip"],
                      public["y_true"].astype(int), strict=True))
    assert ours == theirs


@real_sheets
def test_a_changed_code_in_the_whole_sheet_is_refused(sheets, tmp_path):
    table = pd.read_excel(sheets / f"{CASME}.xlsx", dtype=str)
    table.loc[table["Estimated Emotion"] == "fear", "Estimated Emotion"] = "disgust"
    table.to_excel(tmp_path / f"{CASME}.xlsx", index=False)
    with pytest.raises(InputError, match=r"152 clips.*the protocol has 150 clips"):
        load_clips(options(tmp_path))


def test_emotions_to_labels_by_hand(tmp_path):
    words = ["Disgust", " repression", "HAPPINESS", "surprise", "others", "fear", "sadness"]
    casme_sheet(tmp_path, [(f"{i:02d}", "EP01_01", 1, 2, 3, word) for i, word in enumerate(words)])
    three, five = load_clips(options(tmp_path)), load_clips(options(tmp_path, classes=5))
    assert three.labels.tolist() == [0, 0, 1, 2] and three.class_names == ("negative", "positive", "surprise")
    assert five.labels.tolist() == [0, 3, 1, 2, 4] and five.per_class == (1, 1, 1, 1, 1)
    assert three.keys[1] == "casme/sub01/EP01_01" and three.subjects[1] == "casme_sub01"


def test_samm_emotions_and_header_below_notes(tmp_path):
    make_database(tmp_path, "samm", frames=3)
    clips = load_clips(options(tmp_path, "samm"))
    assert clips.labels.tolist() == [0, 1, 2] * 2 and clips.subjects == ("samm_001", "samm_002")
    assert clips.notes["check"].startswith("differs: the protocol has 133 clips")


@pytest.mark.parametrize("data", ["casme", "smic", "samm", "synthetic"])
def test_paths_lead_to_the_pictures(tmp_path, data):
    make_database(tmp_path, data)
    clips = load_clips(options(tmp_path, data))
    for moment in ("onset", "apex", "offset"):
        for row in clips.table.itertuples():
            path = tmp_path / getattr(row, f"{moment}_frame_path")
            assert path.is_file() and path.stem.endswith(str(getattr(row, f"{moment}_frame")))
    assert clips.apex_on_disk.all()


def test_spelling_of_columns_and_values_does_not_matter(tmp_path):
    make_database(tmp_path, "casme")
    plain = load_clips(options(tmp_path)).table
    sheet = pd.read_excel(tmp_path / f"{CASME}.xlsx", dtype=str)
    sheet.columns = [" subject ", "FILE_NAME", "onset frame", "Apex_frame", "OFFSETFRAME",
                     "estimated_emotion"]
    sheet = sheet.assign(**{"estimated_emotion": sheet["estimated_emotion"].str.upper() + "  "})
    (tmp_path / f"{CASME}.xlsx").unlink()
    (tmp_path / "Annotations").mkdir()
    sheet[sheet.columns[::-1]].to_csv(tmp_path / "Annotations" / f"{CASME.lower()}.CSV", index=False, sep=";")
    pd.testing.assert_frame_equal(load_clips(options(tmp_path)).table, plain)


@pytest.mark.parametrize("column", ["Subject", "Filename", "OnsetFrame", "ApexFrame", "Estimated Emotion"])
def test_missing_column_names_sheet_and_column(tmp_path, column):
    make_database(tmp_path, "casme", subjects=1, frames=1)
    path = tmp_path / f"{CASME}.xlsx"
    pd.read_excel(path, dtype=str).drop(columns=[column]).to_excel(path, index=False)
    with pytest.raises(InputError, match=f"{CASME}.xlsx: no column '{column}'"):
        load_clips(options(tmp_path))


def test_a_column_twice(tmp_path):
    header = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "apex frame", "OffsetFrame", "Emotion")
    casme_sheet(tmp_path, [(1, "EP01", 1, 2, 2, 3, "disgust")], header)
    assert load_clips(options(tmp_path)).table["apex_frame"].tolist() == [2]
    casme_sheet(tmp_path, [(1, "EP01", 1, 2, 1, 3, "disgust")], header)
    with pytest.raises(InputError, match="2 columns are called 'ApexFrame'"):
        load_clips(options(tmp_path))


def test_repeated_rows(tmp_path):
    row = (1, "EP01", 1, 2, 3, "disgust")
    casme_sheet(tmp_path, [row, row])
    clips = load_clips(options(tmp_path))
    assert len(clips.table) == 1 and "row 3 repeats row 2" in clips.notes["duplicates"][0]
    casme_sheet(tmp_path, [row, (1, "EP01", 1, 2, 3, "happiness")])
    with pytest.raises(InputError, match="rows 2 and 3: sub01 EP01 is there twice"):
        load_clips(options(tmp_path))


@pytest.mark.parametrize("frames", [(9, 5, 20), (1, 30, 20), (20, 5, 1)])
def test_frames_out_of_order_are_said_and_kept(tmp_path, frames, capsys):
    casme_sheet(tmp_path, [(1, "EP01", *frames, "disgust"), (2, "EP01", 1, 2, 3, "disgust")])
    clips = load_clips(options(tmp_path))
    assert len(clips.table) == 2 and len(clips.notes["order"]) == 1
    assert "casme/sub01/EP01: onset" in clips.notes["order"][0]
    assert "frames out of order: casme/sub01/EP01" in capsys.readouterr().out


@pytest.mark.parametrize(("row", "says"), [
    ((1, "EP01", 1, 2, 3, "joy"), "row 2: sub01 EP01 is coded 'joy'"),
    ((1, "EP01", 1, 2, 3, ""), "is coded ''"),
    ((1, "EP01", 1, "/", 3, "disgust"), "EP01: the apex frame is '/'"),
    ((1, "EP01", -1, 2, 3, "disgust"), "the onset frame is '-1'"),
    ((1, "EP01", 1, 2, "x", "disgust"), "the offset frame is 'x'"),
    (("", "EP01", 1, 2, 3, "disgust"), "row 2: Subject is ''"),
    (("one", "EP01", 1, 2, 3, "disgust"), "Subject is 'one'"),
    ((1, "../../secret", 1, 2, 3, "disgust"), "Filename is '../../secret'"),
    ((1, "..", 1, 2, 3, "disgust"), "Filename is '..'"),
    ((1, "/etc", 1, 2, 3, "disgust"), "Filename is '/etc'"),
    ((1, "a\\b", 1, 2, 3, "disgust"), "Filename is"),
    ((1, "C:", 1, 2, 3, "disgust"), "Filename is 'C:'"),
    ((1, "", 1, 2, 3, "disgust"), "Filename is ''"),
])
def test_bad_cells_name_sheet_and_row(tmp_path, row, says):
    casme_sheet(tmp_path, [row])
    with pytest.raises(InputError) as caught:
        load_clips(options(tmp_path))
    assert says in str(caught.value) and f"{CASME}.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"PK\x03\x04 not a workbook", b"\x00\xff\x00"])
@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".xls"])
def test_damaged_sheets_are_refused(tmp_path, content, suffix):
    (tmp_path / (CASME + suffix)).write_bytes(content)
    with pytest.raises(InputError, match=CASME):
        load_clips(options(tmp_path))


def test_header_without_clips(tmp_path):
    casme_sheet(tmp_path, [])
    with pytest.raises(InputError, match="a header and no clips"):
        load_clips(options(tmp_path))


HEADER = ["Subject", "filename", "onsetframe", "ApexFrame", "OffsetFrame", "Estimated Emotion"]
CELLS = st.sampled_from([*HEADER, "disgust", "Happiness", "EP01", "EP02", "", "1", "2.0", "/", "../x", "é"])
GOOD_ROW = st.tuples(st.integers(1, 3), st.sampled_from(["EP01", "EP02"]), *[st.integers(0, 3)] * 3,
                     st.sampled_from(["disgust", "Happiness ", "others"])).map(lambda row: [*map(str, row)])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.just(HEADER) | GOOD_ROW | st.lists(CELLS, max_size=7), max_size=6))
def test_any_table_gives_clips_or_an_input_error(tmp_path_factory, grid):
    root = tmp_path_factory.mktemp("any")
    text = "\n".join(",".join(row) for row in grid)
    (root / f"{CASME}.csv").write_text(text, encoding="utf-8")
    try:
        clips = load_clips(options(root))
    except InputError as error:
        assert str(root) in str(error) and "\n" not in str(error)
    else:
        assert len(clips.table) > 0 and set(clips.labels) <= {0, 1, 2}


@given(st.integers(0, 10**12))
def test_frame_numbers_survive_excel(number):
    assert frame_number(str(number), "") == frame_number(f"{number}.0", "") == number


def test_smic_needs_apexes_and_says_where_from(tmp_path):
    make_database(tmp_path, "smic", frames=5)
    spotted = tmp_path / "smic_apex_frames.csv"
    table = pd.read_csv(spotted)
    assert load_clips(options(tmp_path, "smic")).table["apex_frame"].tolist() == table["apex_frame"].tolist()
    (tmp_path / "annotations").mkdir()          # what smic_processing.py writes comes first
    table.assign(apex_frame=12).to_csv(tmp_path / "annotations" / "smic_apex.csv", index=False)
    assert set(load_clips(options(tmp_path, "smic")).table["apex_frame"]) == {12}
    table.iloc[1:].to_csv(tmp_path / "annotations" / "smic_apex.csv", index=False)
    with pytest.raises(InputError, match=r"no apex frame for 1 clips \(s1_ne_01\)"):
        load_clips(options(tmp_path, "smic"))
    shutil.rmtree(tmp_path / "annotations")
    spotted.unlink()
    with pytest.raises(InputError, match=r"run smic_processing\.py"):
        load_clips(options(tmp_path, "smic"))


def test_smic_onsets_become_an_annotation_table(tmp_path):
    make_database(tmp_path, "smic", subjects=1, frames=5)
    onsets = smic_onsets(str(tmp_path))
    before = onsets.copy()
    assert "apex_frame" not in onsets and len(onsets) == 3
    table = annotation_table(onsets.assign(apex_frame=onsets["onset_frame"] + 2), tmp_path)
    assert list(table.columns) == COLUMNS and (table["apex_frame_path"] != "").all()
    pd.testing.assert_frame_equal(onsets, before)


def test_missing_apexes_are_dropped_only_when_told(tmp_path):
    make_database(tmp_path, "casme")
    clips = load_clips(options(tmp_path))
    (tmp_path / clips.table["apex_frame_path"][1]).unlink()
    again = load_clips(options(tmp_path))
    assert np.flatnonzero(~again.apex_on_disk).tolist() == [1] and again.table["apex_frame_path"][1] == ""
    dropped = load_clips(options(tmp_path, skip_missing=True))
    assert dropped.keys == clips.keys[:1] + clips.keys[2:] and dropped.notes["skipped"] == [clips.keys[1]]
    assert dropped.table.index.tolist() == list(range(5))
    shutil.rmtree(tmp_path / "casme2")
    with pytest.raises(InputError, match="no apex frame of any clip"):
        load_clips(options(tmp_path, skip_missing=True))


@pytest.mark.parametrize(("changes", "says"), [
    ({"dataset": "casme3"}, "--dataset casme3"), ({"classes": 4}, "--classes 4"),
    ({"protocol": "megc"}, "--protocol megc"), ({"subset": "hats"}, "--subset hats"),
    ({"dataset": "smic", "classes": 5}, "only casme"), ({"classes": 5, "protocol": "megc2019"}, "3 classes"),
    ({"dataset": "synthetic", "subset": "glasses"}, "--dataset synthetic"),
    ({"data_root": "/no/such/folder"}, "no such folder"), ({}, "no annotation sheet"),
    ({"subset": "glasses"}, "no annotation sheet"),
])
def test_wrong_options_are_named(tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        load_clips(options(**{"data_root": tmp_path, **changes}))


def test_subset_that_leaves_nothing(tmp_path):
    casme_sheet(tmp_path, [(1, "EP01", 1, 2, 3, "disgust")])
    with pytest.raises(InputError, match="no clip is left for --subset glasses"):
        load_clips(options(tmp_path, subset="glasses"))


def test_duplicate_apex_rows_must_agree(tmp_path):
    make_database(tmp_path, "smic", subjects=1, frames=3)
    path = tmp_path / "smic_apex_frames.csv"
    table = pd.read_csv(path)
    pd.concat([table, table.head(1).assign(apex_frame=13)]).to_csv(path, index=False)
    with pytest.raises(InputError, match="s1_ne_01 has two different apex frames"):
        load_clips(options(tmp_path, "smic"))


def test_right_tab_of_the_workbook(tmp_path):
    make_database(tmp_path, "smic", frames=3)
    columns = {"clip": ("Filename",), "onset": ("OnsetF",)}
    assert len(read_columns(tmp_path / "SMIC-HS-E_annotation.xlsx", columns, tab="hs")) == 6
    assert len(read_columns(tmp_path / "SMIC-HS-E_annotation.xlsx", columns, tab="VIS")) == 1


def test_command_writes_the_table_and_prints_the_counts(tmp_path):
    make_database(tmp_path, "casme", clips_per_subject=5, classes=5)
    shutil.rmtree(tmp_path / "casme2" / "CASME2_RAW_selected" / "sub02")
    command = [sys.executable, "-m", "capsule.data", "casme", "--classes", "5", "--data-root", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3].split() == ["casme", "10", "2", "2", "2", "2", "2", "2", "5"]
    written = pd.read_csv(tmp_path / "annotations" / "casme_5.csv", keep_default_na=False)
    assert list(written.columns) == COLUMNS
    assert (written["apex_frame_path"] != "").tolist() == [True] * 5 + [False] * 5


def test_command_shows_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "capsule.data", "samm", "--data-root", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "no such folder" in done.stderr


def test_the_synthetic_database_is_made_once(tmp_path, monkeypatch):
    made = []

    def ensure(root):
        made.append(root)
        make_database(root, "synthetic", subjects=1, frames=1)

    monkeypatch.setitem(sys.modules, "synthetic.database", types.SimpleNamespace(ensure=ensure))
    root = tmp_path / "not there yet"
    clips = [load_clips(options(root, "synthetic")) for _ in range(2)]
    assert made == [str(root)] and clips[0].keys == clips[1].keys
    assert clips[0].subjects == ("synthetic_sub01",) and clips[0].notes["expected"] is None
