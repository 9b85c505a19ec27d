"""Clip lists: the published counts from the real sheets, the rules on small sheets, and every bad sheet."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsule.data.databases import squeeze
from capsule.data.folders import list_frames
from capsule.data.protocol import (
    COLUMNS,
    EXPECTED,
    load_clips,
    protocol_name,
    with_paths,
)
from capsule.data.sheets import COLUMNS as SHEET_COLUMNS
from capsule.data.sheets import find_sheet, read_columns, whole_numbers
from common.errors import InputError
from tests.make_database import make_database

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("OWNERS_SHEETS", ROOT / ".." / "shared" / "reference"))
CASME = "CASME2-coding-20140508"
LIST = ("data", "Subject", "clip", "label", "onset_frame", "apex_frame", "offset_frame", "apex_frame_path")
real_sheets = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the owners' sheets are not here")


def casme_sheet(root, rows, header=("Subject", "Filename", "OnsetFrame", "ApexFrame", "OffsetFrame",
                                    "Estimated Emotion")):
    text = "\n".join(",".join(map(str, row)) for row in (header, *rows))
    (root / f"{CASME}.csv").write_text(text + "\n")
    return root


def clip_list(path, rows, header=LIST):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(",".join(map(str, row)) for row in (header, *rows)) + "\n")
    return path


def said(clips):
    """{what: clips} of the remarks, by the first word or two."""
    return {" ".join(remark["what"].split()[:2]): remark["clips"] for remark in clips.notes["said"]}


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
    clips = load_clips(dataset, sheets, classes=classes, protocol=protocol, subset=subset)
    assert (len(clips.table), len(clips.subjects), clips.per_class) == EXPECTED[case]
    assert clips.notes["check"] == "matches the protocol"
    assert list(clips.table.columns) == COLUMNS


@real_sheets
def test_glasses_subset_by_database(sheets):
    table = load_clips("composite", sheets, subset="glasses").table
    assert table["data"].value_counts().to_dict() == {"casme": 65, "smic": 66, "samm": 15}


@real_sheets
def test_corrections_and_names_of_the_owners_sheets(sheets):
    clips = load_clips("composite", sheets)
    rows = dict(zip(clips.keys, clips.table.itertuples(), strict=True))
    assert rows["casme/sub04/EP12_01f"].apex_frame == 321
    assert [rows[f"casme/sub24/{clip}"].label for clip in ("EP07_01", "EP07_04f", "EP10_03")] == [2, 2, 2]
    assert len(said(clips)["sadness counted"]) == 3 and "frames out" not in said(clips)
    assert {rows["smic/20/s20_ne_01"].data_sub, rows["samm/006/006_1_2"].data_sub} == {"smic_20", "samm_006"}
    assert rows["smic/20/s20_ne_01"].apex_frame == 17581046 and rows["samm/006/006_1_2"].apex_frame == 5588
    assert list(dict.fromkeys(clips.table["data"])) == ["casme", "smic", "samm"]
    assert not clips.apex_on_disk.any()


@real_sheets
def test_megc2019_is_the_list_of_the_public_predictions(sheets):
    """Subject, clip and label of all 435, in the same order."""
    clips = load_clips("composite", sheets, protocol="megc2019")
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
        load_clips("casme", tmp_path)


def test_emotions_to_labels_by_hand(tmp_path):
    words = ["Disgust", " repression", "HAPPINESS", "surprise", "others", "fear", "sadness"]
    casme_sheet(tmp_path, [(f"{i:02d}", "EP01_01", 1, 2, 3, word) for i, word in enumerate(words)])
    three, five = load_clips("casme", tmp_path), load_clips("casme", tmp_path, classes=5)
    assert three.labels.tolist() == [0, 0, 1, 2] and three.class_names == ("negative", "positive", "surprise")
    assert five.labels.tolist() == [0, 3, 1, 2, 4] and five.per_class == (1, 1, 1, 1, 1)
    assert three.keys[1] == "casme/sub01/EP01_01" and three.subjects[1] == "casme_sub01"


def test_samm_emotions_and_header_below_notes(tmp_path):
    make_database(tmp_path, "samm", frames=3)
    clips = load_clips("samm", tmp_path)
    assert clips.labels.tolist() == [0, 1, 2] * 2 and clips.subjects == ("samm_001", "samm_002")
    assert clips.notes["check"].startswith("differs: the protocol has 133 clips")


@pytest.mark.parametrize("data", ["casme", "smic", "samm", "synthetic"])
def test_paths_lead_to_the_pictures(tmp_path, data):
    make_database(tmp_path, data)
    clips = load_clips(data, tmp_path)
    for moment in ("onset", "apex", "offset"):
        for row in clips.table.itertuples():
            path = tmp_path / getattr(row, f"{moment}_frame_path")
            assert path.is_file() and path.stem.endswith(str(getattr(row, f"{moment}_frame")))
    assert clips.apex_on_disk.all()


def test_spelling_of_columns_and_values_does_not_matter(tmp_path):
    make_database(tmp_path, "casme")
    plain = load_clips("casme", tmp_path).table
    sheet = pd.read_excel(tmp_path / f"{CASME}.xlsx", dtype=str)
    sheet.columns = [" subject ", "FILE_NAME", "onset frame", "Apex_frame", "OFFSETFRAME", "action_units",
                     "estimated_emotion"]
    sheet = sheet.assign(**{"estimated_emotion": sheet["estimated_emotion"].str.upper() + "  "})
    (tmp_path / f"{CASME}.xlsx").unlink()
    (tmp_path / "Annotations").mkdir()
    sheet[sheet.columns[::-1]].to_csv(tmp_path / "Annotations" / f"{CASME.lower()}.CSV", index=False, sep=";")
    pd.testing.assert_frame_equal(load_clips("casme", tmp_path).table, plain)


@pytest.mark.parametrize("column", ["Subject", "Filename", "OnsetFrame", "ApexFrame", "Estimated Emotion"])
def test_missing_column_names_sheet_and_column(tmp_path, column):
    make_database(tmp_path, "casme", subjects=1, frames=1)
    path = tmp_path / f"{CASME}.xlsx"
    pd.read_excel(path, dtype=str).drop(columns=[column]).to_excel(path, index=False)
    with pytest.raises(InputError, match=f"{CASME}.xlsx: no column '{column}'"):
        load_clips("casme", tmp_path)


def test_a_column_twice(tmp_path):
    header = ("Subject", "Filename", "OnsetFrame", "ApexFrame", "apex frame", "OffsetFrame", "Emotion")
    casme_sheet(tmp_path, [(1, "EP01", 1, 2, 2, 3, "disgust")], header)
    assert load_clips("casme", tmp_path).table["apex_frame"].tolist() == [2]
    casme_sheet(tmp_path, [(1, "EP01", 1, 2, 1, 3, "disgust")], header)
    with pytest.raises(InputError, match="2 columns are called 'ApexFrame'"):
        load_clips("casme", tmp_path)
    casme_sheet(tmp_path, [(1, "EP01", 1, 2, 1, 3, "disgust")], [*header[:4], "apex", *header[5:]])
    with pytest.raises(InputError, match="2 columns are called 'ApexFrame' or 'apex' and differ"):
        load_clips("casme", tmp_path)


def test_repeated_rows(tmp_path):
    row = (1, "EP01", 1, 2, 3, "disgust")
    casme_sheet(tmp_path, [row, row])
    clips = load_clips("casme", tmp_path)
    assert len(clips.table) == 1 and said(clips)["row there"] == ["casme/sub01/EP01"]
    casme_sheet(tmp_path, [row, (1, "EP01", 1, 2, 3, "happiness")])
    with pytest.raises(InputError, match="rows 2 and 3: sub01 EP01 is there twice"):
        load_clips("casme", tmp_path)


@pytest.mark.parametrize("frames", [(9, 5, 20), (1, 30, 20), (20, 5, 1)])
def test_frames_out_of_order_are_said_and_kept(tmp_path, frames, capsys):
    casme_sheet(tmp_path, [(1, "EP01", *frames, "disgust"), (2, "EP01", 1, 2, 3, "disgust")])
    clips = load_clips("casme", tmp_path)
    assert len(clips.table) == 2 and said(clips)["frames out"] == ["casme/sub01/EP01"]
    assert "frames out of order (1): casme/sub01/EP01" in capsys.readouterr().out


@pytest.mark.parametrize(("row", "says"), [
    ((1, "EP01", 1, 2, 3, "joy"), "row 2: sub01 EP01 is coded 'joy'"),
    ((1, "EP01", 1, 2, 3, ""), "is coded ''"),
    ((1, "EP01", 1, "/", 3, "disgust"), "no apex frame for 1 clips (EP01)"),
    ((1, "EP01", 1, "", 3, "disgust"), "no apex frame for 1 clips (EP01)"),
    ((1, "EP01", 1, -1, 3, "disgust"), "the apex is '-1'"),
    ((1, "EP01", -1, 2, 3, "disgust"), "the onset is '-1'"),
    ((1, "EP01", 1, 2, "x", "disgust"), "the offset is 'x'"),
    ((1, "EP01", 1, 2, 1e30, "disgust"), "the offset is '1e+30'"),
    (("", "EP01", 1, 2, 3, "disgust"), "row 2: Subject is ''"),
    (("one", "EP01", 1, 2, 3, "disgust"), "Subject is 'one'"),
    ((1, "../../secret", 1, 2, 3, "disgust"), "Filename in the sheet: '../../secret'"),
    ((1, "..", 1, 2, 3, "disgust"), "Filename in the sheet: '..'"),
    ((1, "/etc", 1, 2, 3, "disgust"), "Filename in the sheet: '/etc'"),
    ((1, "a\\b", 1, 2, 3, "disgust"), "Filename in the sheet"),
    ((1, "C:", 1, 2, 3, "disgust"), "Filename in the sheet: 'C:'"),
    ((1, "", 1, 2, 3, "disgust"), "Filename in the sheet: ''"),
])
def test_bad_cells_name_sheet_and_row(tmp_path, row, says):
    casme_sheet(tmp_path, [row])
    with pytest.raises(InputError) as caught:
        load_clips("casme", tmp_path)
    assert says in str(caught.value) and f"{CASME}.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"PK\x03\x04 not a workbook", b"\x00\xff\x00"])
@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".xls"])
def test_damaged_sheets_are_refused(tmp_path, content, suffix):
    (tmp_path / (CASME + suffix)).write_bytes(content)
    with pytest.raises(InputError, match=CASME) as caught:
        load_clips("casme", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_a_stray_cell_far_away_is_not_looked_at_and_a_bomb_is_refused(tmp_path, suffix):
    path, far = tmp_path / (CASME + suffix), 16_384
    header, row = [*HEADER, *[""] * (far - 7), "x"], [1, "EP01", 1, 2, 3, "disgust"]
    if suffix == ".csv":
        path.write_text("\n".join(",".join(map(str, cells)) for cells in (header, row)))
    else:
        book = openpyxl.Workbook()
        for cells in (header, row):
            book.active.append(cells)
        book.active.cell(1_048_576, far, "x")
        book.save(path)
    assert len(load_clips("casme", tmp_path).table) == 1
    casme_sheet(tmp_path, [row] * 5001)
    with pytest.raises(InputError, match="more than 5000 rows"):
        read_columns(tmp_path / f"{CASME}.csv", ("subject",))
    if suffix == ".csv":
        path.write_text(" " * (2**26 + 1))
    else:
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("xl/more.xml", " " * 2**26)
    with pytest.raises(InputError, match="far more than a sheet has"):
        read_columns(path, ("subject",))


def test_header_without_clips(tmp_path):
    casme_sheet(tmp_path, [])
    with pytest.raises(InputError, match="a header and no clips"):
        load_clips("casme", tmp_path)


HEADER = ["Subject", "filename", "onsetframe", "ApexFrame", "OffsetFrame", "Estimated Emotion"]
CELLS = st.sampled_from([*HEADER, "disgust", "Happiness", "EP01", "EP02", "", "1", "2.0", "/", "../x", "é"])
GOOD_ROW = st.tuples(st.integers(1, 3), st.sampled_from(["EP01", "EP02"]), *[st.integers(0, 3)] * 3,
                     st.sampled_from(["disgust", "Happiness ", "others"])).map(lambda row: [*map(str, row)])


@settings(max_examples=80)
@given(st.lists(st.just(HEADER) | GOOD_ROW | st.lists(CELLS, max_size=7), max_size=6))
def test_any_table_gives_clips_or_an_input_error(tmp_path_factory, grid):
    root = tmp_path_factory.mktemp("any")
    text = "\n".join(",".join(row) for row in grid)
    (root / f"{CASME}.csv").write_text(text, encoding="utf-8")
    try:
        clips = load_clips("casme", root)
    except InputError as error:
        assert str(root) in str(error) and "\n" not in str(error)
    else:
        assert len(clips.table) > 0 and set(clips.labels) <= {0, 1, 2}


@given(st.integers(0, 10**12))
def test_frame_numbers_survive_excel(number):
    table = pd.DataFrame({"clip": "c", "onset": [str(number), f"{number}.0"]})
    assert whole_numbers("", table, "onset").tolist() == [number, number]


def test_smic_needs_apexes_and_says_where_from(tmp_path):
    make_database(tmp_path, "smic", frames=5)
    spotted = tmp_path / "smic_apex_frames.csv"
    table = pd.read_csv(spotted)
    assert load_clips("smic", tmp_path).table["apex_frame"].tolist() == table["apex_frame"].tolist()
    (tmp_path / "annotations").mkdir()          # what smic_processing.py writes comes first
    table.assign(apex_frame=12).to_csv(tmp_path / "annotations" / "smic_apex.csv", index=False)
    assert set(load_clips("smic", tmp_path).table["apex_frame"]) == {12}
    table.iloc[1:].to_csv(tmp_path / "annotations" / "smic_apex.csv", index=False)
    with pytest.raises(InputError, match=r"no apex frame for 1 clips \(s1_ne_01\)"):
        load_clips("smic", tmp_path)
    shutil.rmtree(tmp_path / "annotations")
    spotted.unlink()
    for skip in (False, True):
        with pytest.raises(InputError, match=r"run smic_processing\.py"):
            load_clips("smic", tmp_path, skip_missing=skip)


def test_smic_onsets_become_an_annotation_table(tmp_path):
    make_database(tmp_path, "smic", subjects=1, frames=5)
    (tmp_path / "smic_apex_frames.csv").unlink()
    onsets = load_clips("smic", tmp_path, frames=None).table
    before = onsets.copy()
    assert onsets["apex_frame"].tolist() == [-1] * 3
    table, places, missing = with_paths(onsets.assign(apex_frame=onsets["onset_frame"] + 2), tmp_path)
    assert list(table.columns) == COLUMNS and (table["apex_frame_path"] != "").all()
    assert places == {"smic": {"smic/SMIC_HS_E": 3}} and missing == ""
    pd.testing.assert_frame_equal(onsets, before)


def test_missing_apexes_are_dropped_only_when_told(tmp_path):
    make_database(tmp_path, "casme")
    clips = load_clips("casme", tmp_path)
    (tmp_path / clips.table["apex_frame_path"][1]).unlink()
    again = load_clips("casme", tmp_path)
    assert np.flatnonzero(~again.apex_on_disk).tolist() == [1] and again.table["apex_frame_path"][1] == ""
    dropped = load_clips("casme", tmp_path, skip_missing=True)
    assert dropped.keys == clips.keys[:1] + clips.keys[2:] and said(dropped)["dropped, no"] == [clips.keys[1]]
    assert "before 1 were dropped: " in dropped.notes["check"]
    assert "frame 14 was looked for" in dropped.notes["missing"]
    assert dropped.table.index.tolist() == list(range(5))
    shutil.rmtree(tmp_path / "casme2")
    with pytest.raises(InputError, match="no apex frame of any clip"):
        load_clips("casme", tmp_path, skip_missing=True)


@pytest.mark.parametrize(("changes", "says"), [
    ({"dataset": "casme3"}, "--dataset casme3"), ({"classes": 4}, "--classes 4"),
    ({"protocol": "megc"}, "--protocol megc"), ({"subset": "hats"}, "--subset hats"),
    ({"protocol": "list.csv"}, "--protocol list.csv: no such file"),
    ({"dataset": "smic", "classes": 5}, "only casme"), ({"classes": 5, "protocol": "megc2019"}, "3 classes"),
    ({"dataset": "synthetic", "subset": "glasses"}, "--dataset synthetic"),
    ({"data_root": "/no/such/folder"}, "no such folder"), ({}, "no annotation sheet"),
    ({"subset": "glasses"}, "no annotation sheet"),
])
def test_wrong_options_are_named(tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        load_clips(**{"dataset": "casme", "data_root": tmp_path, **changes})


def test_subset_that_leaves_nothing(tmp_path):
    casme_sheet(tmp_path, [(1, "EP01", 1, 2, 3, "disgust")])
    with pytest.raises(InputError, match="no clip is left for --subset glasses"):
        load_clips("casme", tmp_path, subset="glasses")


def test_duplicate_apex_rows_must_agree(tmp_path):
    make_database(tmp_path, "smic", subjects=1, frames=3)
    path = tmp_path / "smic_apex_frames.csv"
    table = pd.read_csv(path)
    pd.concat([table, table.head(1).assign(apex_frame=13)]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"smic_apex_frames\.csv rows 2 and 5: 1 s1_ne_01 is there twice"):
        load_clips("smic", tmp_path)


def test_right_tab_of_the_workbook(tmp_path):
    make_database(tmp_path, "smic", frames=3)
    columns = ("clip", "onset_frame")
    assert len(read_columns(tmp_path / "SMIC-HS-E_annotation.xlsx", columns, tab="hs")) == 6
    assert len(read_columns(tmp_path / "SMIC-HS-E_annotation.xlsx", columns, tab="VIS")) == 1
    assert set(columns) < set(SHEET_COLUMNS)


def test_no_other_tab_is_taken_for_the_right_one(tmp_path):
    make_database(tmp_path, "smic", frames=3)
    path = tmp_path / "SMIC-HS-E_annotation.xlsx"
    tabs = {name: pd.read_excel(path, sheet_name=name) for name in ("HS", "VIS")}
    for names, wanted in ((("VIS", "SMIC-HS"), 6), (("VIS", "Sheet2"), 0), (("Sheet1",), 1)):
        with pd.ExcelWriter(path) as book:
            for name, tab in zip(names, (tabs["VIS"], tabs["HS"]), strict=False):
                tab.to_excel(book, sheet_name=name, index=False)
        if wanted:
            assert len(read_columns(path, ("clip",), tab="HS")) == wanted
        else:
            with pytest.raises(InputError, match="no tab is called HS, there are VIS, Sheet2; rename"):
                read_columns(path, ("clip",), tab="HS")


def test_apexes_of_other_recordings_are_refused(tmp_path):
    make_database(tmp_path, "smic", frames=3)
    table = pd.read_csv(tmp_path / "smic_apex_frames.csv")
    table.assign(apex_frame=table["apex_frame"] + 1000).to_csv(tmp_path / "smic_apex_frames.csv", index=False)
    with pytest.raises(InputError, match="only 0 of its 6 apexes lie between the sheet's onset and offset"):
        load_clips("smic", tmp_path)


def test_frames_with_other_numbers_than_the_sheets_are_said(tmp_path):
    make_database(tmp_path, "samm", frames=10)

    def said():
        remarks = load_clips("samm", tmp_path).notes["said"]
        return [one for one in remarks if "numbered otherwise" in one["what"]]

    before = load_clips("samm", tmp_path).table
    assert not said() and (before["onset_frame_path"] != "").all()
    for row in before.itertuples():
        folder = (tmp_path / row.apex_frame_path).parent
        for number, path in sorted(list_frames(folder).items(), reverse=True):
            path.rename(folder / f"{row.subject}_{number + 2:05d}.jpg")
        for number, path in list_frames(folder).items():
            if number > row.offset_frame + 2:
                path.unlink()
    (found,) = said()
    assert found["count"] == len(before)


def test_command_writes_the_table_and_prints_the_counts(tmp_path):
    make_database(tmp_path, "casme", clips_per_subject=5, classes=5)
    shutil.rmtree(tmp_path / "casme2" / "CASME2_RAW_selected" / "sub02")
    command = [sys.executable, "-m", "capsule.data", "casme", "--classes", "5", "--data-root", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-4].split() == ["casme", "10", "2", "2", "2", "2", "2", "2", "5"]
    written = pd.read_csv(tmp_path / "annotations" / "casme_5.csv", keep_default_na=False)
    assert list(written.columns) == COLUMNS
    assert (written["apex_frame_path"] != "").tolist() == [True] * 5 + [False] * 5


def test_command_shows_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "capsule.data", "samm", "--data-root", str(tmp_path / "none")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "no such folder" in done.stderr


def test_the_synthetic_database_is_made_once(tmp_path, monkeypatch):
    made = []

    def make(root, **options):
        made.append(root)
        make_database(root, "synthetic", subjects=1, frames=1)

    monkeypatch.setattr("synthetic.database.make_synthetic", make)
    root = tmp_path / "not there yet"
    with pytest.raises(InputError, match="make it for --dataset synthetic"):
        load_clips("synthetic", root)
    root.mkdir()
    clips = [load_clips("synthetic", root) for _ in range(2)]
    assert made == [root] and clips[0].keys == clips[1].keys
    assert clips[0].subjects == ("synthetic_sub01",) and clips[0].notes["check"].startswith("no published")


# ---- editions, several folders, lists of one's own ---------------------------------------------------------


@pytest.mark.parametrize("name", ["CASME2-coding-20190701.xlsx", "casme2_coding 20140508 (1).XLSX"])
@pytest.mark.parametrize("place", ["", "annotations", "Annotations", "CASMEII"])
def test_sheets_of_any_edition_in_any_place(tmp_path, name, place):
    make_database(tmp_path, "casme", frames=1)
    (tmp_path / "casme2").rename(tmp_path / "CASMEII")
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / f"{CASME}.xlsx").rename(tmp_path / place / name)
    (tmp_path / place / f"~${name}").write_bytes(b"Excel has the sheet open")
    clips = load_clips("CASME2", tmp_path)
    assert clips.apex_on_disk.all() and clips.notes["sheets"] == [str(tmp_path / place / name)]
    assert clips.dataset == "casme" and clips.data_root == tmp_path


def test_the_newest_edition_is_read(tmp_path):
    for name in (f"{CASME}.csv", f"{CASME}.xlsx", "CASME2-coding-20190701.csv", "CASME2-notes.xlsx",
                 "CASME2-coding-old.xlsx", "CASME2-coding-20200101.xls"):
        (tmp_path / name).touch()
    assert find_sheet("casme", tmp_path).name == "CASME2-coding-20190701.csv"
    (tmp_path / "CASME2-coding-20190701.csv").unlink()
    assert find_sheet("casme", tmp_path).name == f"{CASME}.xlsx"


@pytest.mark.parametrize(("newer", "older"), [
    (f"{CASME}.xlsx", "CASME2-coding-2013.xlsx"), ("CASME2-coding-2019-07-01.xlsx", f"{CASME}.xlsx"),
    ("CASME2-coding.20190701.xlsx", f"{CASME}.xlsx"), (f"{CASME} (2).csv", f"{CASME} (1).csv"),
    ("SAMM_Micro_FACS_Codes_v2.1.xlsx", "SAMM_Micro_FACS_Codes_v2.xlsx"),
    ("SAMM_Micro_FACS_Codes (v10).xlsx", "SAMM_Micro_FACS_Codes_v.3.xlsx")])
def test_of_two_editions_the_newer_is_read(tmp_path, newer, older):
    for name in (older, newer):
        (tmp_path / name).touch()
    assert find_sheet("casme" if newer.startswith("CASME") else "samm", tmp_path).name == newer


@pytest.mark.parametrize("text", ['"1" ,"EP02_01f" ,46', '1,EP02_01f,46,"smile" at the end',
                                  '1, "EP02_01f",46'])
def test_odd_quotation_marks_lose_no_row(tmp_path, text):
    (tmp_path / "a.csv").write_text(f"Subject,Filename,OnsetFrame,note\n{text}\n2,EP01_01,5,\n")
    table = read_columns(tmp_path / "a.csv", ("subject", "clip", "onset_frame"))
    assert table.values.tolist() == [["1", "EP02_01f", "46"], ["2", "EP01_01", "5"]]


def test_lists_in_other_forms(tmp_path):
    rows = "Subject\tFilename\n1\tEP02_01f\n"
    (tmp_path / "a.txt").write_bytes(rows.encode("utf-16"))
    assert read_columns(tmp_path / "a.txt", ("subject", "clip")).values.tolist() == [["1", "EP02_01f"]]
    (tmp_path / "a.csv").write_text('Subject,Filename\n1,"EP02_01f\n2,EP01_01\n')
    with pytest.raises(InputError, match="unexpected end of data"):
        read_columns(tmp_path / "a.csv", ("subject", "clip"))


@pytest.mark.parametrize("copy", [" (1)", "(1)", " 2", "-2", "_old", " - Copy", "copy"])
@pytest.mark.parametrize("sheet", [f"{CASME}", "SAMM_Micro_FACS_Codes_v2", "SMIC-HS-E_annotation_2019"])
def test_a_copy_never_stands_for_the_sheet_beside_it(tmp_path, sheet, copy):
    data = next(name for name in ("casme", "smic", "samm") if squeeze(sheet).startswith(name))
    for name in (f"{sheet}{copy}.xlsx", f"{sheet}.csv"):
        (tmp_path / name).touch()
    assert find_sheet(data, tmp_path).name == f"{sheet}.csv"
    (tmp_path / f"{sheet}.csv").unlink()
    assert find_sheet(data, tmp_path).name == f"{sheet}{copy}.xlsx"


def test_the_2019_sheet_of_smic_codes_the_apex(tmp_path):
    make_database(tmp_path, "smic", frames=5)
    sheet = pd.read_excel(tmp_path / "SMIC-HS-E_annotation.xlsx", dtype=str).assign(ApexF="14")
    sheet.to_excel(tmp_path / "SMIC-HS-E_annotation_2019.xlsx", index=False)
    clips = load_clips("smic", tmp_path)
    assert set(clips.table["apex_frame"]) == {14} and len(clips.notes["sheets"]) == 1
    sheet.loc[0, "ApexF"] = ""          # the spotted table fills the gap
    sheet.to_excel(tmp_path / "SMIC-HS-E_annotation_2019.xlsx", index=False)
    assert load_clips("smic", tmp_path).table["apex_frame"].tolist() == [13] + [14] * 5


def test_spotted_apexes_are_told_apart_by_the_subjects_number(tmp_path):
    make_database(tmp_path, "smic", frames=5)
    table = pd.read_csv(tmp_path / "smic_apex_frames.csv")
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "smic_apex.csv"
    table.assign(subject="s0" + table["subject"].astype(str), apex_frame=14).to_csv(path, index=False)
    assert set(load_clips("smic", tmp_path).table["apex_frame"]) == {14}
    first = table.iloc[:1].assign(subject="s001", apex_frame=12)      # the first clip once more
    pd.concat([table, first]).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"rows 2 and 8.*twice with different values.*or remove the file"):
        load_clips("smic", tmp_path)


def test_clips_without_an_apex_are_dropped_when_told(tmp_path):
    make_database(tmp_path, "smic", frames=5)
    table = pd.read_csv(tmp_path / "smic_apex_frames.csv")
    table.iloc[2:].to_csv(tmp_path / "smic_apex_frames.csv", index=False)
    clips = load_clips("smic", tmp_path, skip_missing=True)
    assert len(clips.table) == 4 and said(clips)["dropped, no"] == ["smic/1/s1_ne_01", "smic/1/s1_po_02"]
    assert (clips.table["apex_frame"] > 0).all() and "frames out" not in said(clips)


def test_several_folders_are_said_and_chosen_from(tmp_path, capsys):
    make_database(tmp_path, "casme")
    raw, cropped = tmp_path / "casme2/CASME2_RAW_selected", tmp_path / "casme2/Cropped"
    shutil.copytree(raw, cropped)
    shutil.rmtree(raw / "sub02")
    clips = load_clips("casme", tmp_path)
    assert clips.notes["frames"] == {"casme": {"casme2/CASME2_RAW_selected": 3, "casme2/Cropped": 3}}
    assert "casme lies in 2 folders (--frames chooses)" in capsys.readouterr().out
    chosen = load_clips("casme", tmp_path, frames="Cropped")
    assert all(path.startswith("casme2/Cropped/") for path in chosen.table["apex_frame_path"])
    assert chosen.identity == clips.identity
    with pytest.raises(InputError, match="--frames faces"):
        load_clips("casme", tmp_path, frames="faces")


def test_what_is_not_found_is_explained(tmp_path, capsys):
    make_database(tmp_path, "casme", frames=1)
    (tmp_path / "casme2/CASME2_RAW_selected/sub01/EP01_01f").rename(tmp_path / "casme2/sub_one")
    clips = load_clips("casme", tmp_path)
    assert clips.notes["missing"].startswith("casme: 5 of 6 apex frames are on disk; casme/sub01/EP01_01f: ")
    assert clips.notes["missing"] in capsys.readouterr().out and said(clips)["apex frame"] == [clips.keys[0]]


def test_identity_is_clips_labels_and_frame_numbers(tmp_path):
    rows = [(1, "EP01", 1, 2, 3, "disgust"), (1, "EP02", 1, 2, 3, "surprise")]
    first = load_clips("casme", casme_sheet(tmp_path, rows)).identity
    assert json.loads(json.dumps(first)) == first
    assert load_clips("casme", casme_sheet(tmp_path, rows)).identity == first
    for second in ((1, "EP02", 1, 2, 4, "surprise"), (1, "EP02", 1, 3, 3, "surprise"),
                   (1, "EP02", 1, 2, 3, "happiness"), (1, "EP03", 1, 2, 3, "surprise")):
        assert load_clips("casme", casme_sheet(tmp_path, [rows[0], second])).identity != first
    assert load_clips("casme", casme_sheet(tmp_path, rows[::-1])).identity != first


ROWS = [("casme2", "sub01", "EP01_01f", 1, 11, 13, 17, "/home/x/1.jpg"),
        ("samm", 6, "006_1_2", 0, 1, 2, 3, ""),
        ("CASME2", "2", "EP01_01f", 2, 11, 12, 17, "D:\\y\\2.jpg")]


def test_a_list_of_ones_own(tmp_path):
    make_database(tmp_path, "casme")
    path = clip_list(tmp_path / "annotations" / "my list.v2.csv", ROWS)
    for protocol in (str(path), path.name):
        clips = load_clips("casme", tmp_path, protocol=protocol)
        assert clips.keys == ["casme/sub01/EP01_01f", "casme/sub02/EP01_01f"]
        assert clips.labels.tolist() == [1, 2] and clips.subjects == ("casme_sub01", "casme_sub02")
        assert clips.table["apex_frame"].tolist() == [13, 12]
        assert clips.table["apex_frame_path"][0] == "casme2/CASME2_RAW_selected/sub01/EP01_01f/img13.jpg"
        assert clips.notes["name"] == "casme_3_my-list-v2"
        assert said(clips)["rows of"] == ["samm"]
        assert clips.table["emotion"].tolist() == ["positive", "surprise"]
    assert load_clips("composite", tmp_path, protocol=str(path)).keys[1] == "samm/006/006_1_2"
    ours = load_clips("casme", tmp_path)           # and what the project writes is such a list
    ours.table.to_csv(tmp_path / "ours.csv", index=False)
    assert load_clips("casme", tmp_path, protocol="ours.csv").identity == ours.identity


@pytest.mark.parametrize(("rows", "says"), [
    ([ROWS[0], ROWS[0]], None),
    ([ROWS[0], (*ROWS[0][:5], 14, 17, "")], "rows 2 and 3: sub01 EP01_01f is there twice"),
    ([(*ROWS[0][:3], 3, *ROWS[0][4:])], "row 2: the label is 3"),
    ([(*ROWS[0][:3], "x", *ROWS[0][4:])], "the label is 'x'"),
    ([(*ROWS[0][:5], "/", 17, "")], "the apex is '/'"),
    ([("casme2", "sub01", "../x", *ROWS[0][3:])], "Filename in the sheet: '../x'"),
    ([("faces", *ROWS[0][1:])], "row 2: data faces: no such database"),
    ([("", *ROWS[0][1:])], "row 2: data : no such database"),
    ([ROWS[1]], "no clip of casme; it has samm"),
    ([], "a header and no clips"),
])
def test_lists_are_checked(tmp_path, rows, says):
    path = clip_list(tmp_path / "list.csv", rows)
    if says is None:
        clips = load_clips("casme", tmp_path, protocol=str(path))
        assert said(clips)["row there"] == clips.keys == ["casme/sub01/EP01_01f"]
        return
    with pytest.raises(InputError) as caught:
        load_clips("casme", tmp_path, protocol=str(path))
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_list_of_three_classes_is_none_of_five(tmp_path):
    path = clip_list(tmp_path / "list.csv", [ROWS[0]])
    with pytest.raises(InputError, match="no label above 2"):
        load_clips("casme", tmp_path, classes=5, protocol=str(path))


def test_a_list_without_frame_numbers_takes_the_sheets(tmp_path):
    make_database(tmp_path, "composite")
    whole = load_clips("composite", tmp_path).table
    (tmp_path / "annotations").mkdir()
    short = whole[["data", "subject", "clip", "label"]].iloc[::-1]
    short.assign(clip=short["clip"].str.upper()).to_csv(tmp_path / "annotations" / "short.csv", index=False)
    clips = load_clips("composite", tmp_path, protocol="short.csv")
    frames = ["onset_frame", "apex_frame", "offset_frame"]
    assert clips.table[frames].to_numpy().tolist() == whole[frames].iloc[::-1].to_numpy().tolist()
    assert clips.apex_on_disk.all() and clips.per_class == (6, 6, 6)
    assert [Path(path).name for path in clips.notes["sheets"]] == [
        "short.csv", "SAMM_Micro_FACS_Codes_v2.xlsx", "SMIC-HS-E_annotation.xlsx", "smic_apex_frames.csv",
        f"{CASME}.xlsx"]
    whole.drop(columns="offset_frame").assign(apex_frame=12).to_csv(tmp_path / "apex.csv", index=False)
    table = load_clips("composite", tmp_path, protocol="apex.csv").table     # the sheets' offsets
    assert set(table["apex_frame"]) == {12} and table["offset_frame"].equals(whole["offset_frame"])
    lost = short.replace({"clip": {"006_1_2": "x", "EP02_01f": "EP99"}})
    lost.to_csv(tmp_path / "lost.csv", index=False)
    with pytest.raises(InputError, match=r"lost\.csv: has no onset_frame, apex_frame, offset_frame, and "
                       r".*CASME2.* lacks 2 of its clips: casme/sub02/EP99, casme/sub01/EP99;"):
        load_clips("casme", tmp_path, protocol="lost.csv")
    (tmp_path / f"{CASME}.xlsx").unlink()
    with pytest.raises(InputError, match="no annotation sheet CASME2"):
        load_clips("casme", tmp_path, protocol="short.csv")


def test_a_lists_own_frame_numbers_are_never_passed_over_in_silence(tmp_path):
    make_database(tmp_path, "casme")
    header = ("data", "subject", "clip", "label", "onset", "apex", "offset")      # as MEB's tables have them
    clip_list(tmp_path / "short names.csv", [row[:7] for row in ROWS], header)
    clips = load_clips("casme", tmp_path, protocol="short names.csv")
    assert clips.table["apex_frame"].tolist() == [13, 12] and "columns that" not in said(clips)
    clip_list(tmp_path / "odd names.csv", [row[:7] for row in ROWS], (*header[:5], "peak", "offset"))
    clips = load_clips("casme", tmp_path, protocol="odd names.csv")
    assert said(clips)["columns that"] == ["apex_frame"]


@real_sheets
def test_the_public_list_of_435_clips_gives_the_protocols_frames(sheets):
    clips = load_clips("composite", sheets, protocol=str(REFERENCE / "capsulenet_predictions.csv"))
    assert clips.identity == load_clips("composite", sheets, protocol="megc2019").identity


def test_a_protocol_is_a_plain_name():
    assert [protocol_name(p) for p in ("dsnca", "megc2019", "/a/b c/my list.v2.csv", "..csv")] == [
        "dsnca", "megc2019", "my-list-v2", ""]


def test_command_ends_with_2_when_no_apex_frame_is_on_disk(tmp_path, capsys):
    from capsule.data.__main__ import main

    make_database(tmp_path, "casme", frames=1)
    main(["CASME2", "--data-root", str(tmp_path)])
    shutil.rmtree(tmp_path / "casme2")
    with pytest.raises(InputError, match=r"no apex frame is on disk") as caught:
        main(["casme2", "--data-root", str(tmp_path)])
    assert "looked for <sub01, s1 or 1>/.../EP01_01f/" in capsys.readouterr().out
    assert caught.value.exit_code == 2 and (tmp_path / "annotations/casme_3.csv").is_file()


def test_no_folder_speaks_to_the_terminal(tmp_path, capsys):
    make_database(tmp_path, "casme")
    raw = tmp_path / "casme2" / "CASME2_RAW_selected"
    shutil.copytree(raw, tmp_path / "casme2" / "\x1b[31mred\n")
    load_clips("casme", tmp_path)
    for folder in tmp_path.glob("casme2/*/sub01/EP01_01f"):
        shutil.rmtree(folder)
    load_clips("casme", tmp_path)
    said = capsys.readouterr().out
    assert r"\x1b[31mred" in said and said.replace("\n", "").isprintable()
