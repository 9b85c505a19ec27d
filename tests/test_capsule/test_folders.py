"""Frames found in every layout of SPEC section 1, links, odd files, and what is said of missing ones."""

import os
from pathlib import Path

import pytest

from capsule.data.databases import database_name, squeeze
from capsule.data.folders import ClipFolders, list_frames, subject_number
from common.errors import InputError

CASME = [("sub01", "EP02_01f"), ("sub12", "EP01_02")]
SMIC = [("1", "s1_ne_01"), ("20", "s20_ne_01")]
SAMM = [("006", "006_1_2"), ("037", "037_3_2")]
# (database, its clips, the path of a frame; {s}: subject's number, {c}: clip)
LAYOUTS = [
    ("casme", CASME, "casme2/CASME2_RAW_selected/sub{s:02d}/{c}/img46.jpg"),
    ("casme", CASME, "CASMEII/RAW_selected/sub{s:02d}/{c}/img46.jpg"),
    ("casme", CASME, "CASME2/CASME2-RAW/sub{s:02d}/{c}/img46.jpg"),
    ("casme", CASME, "casme/Cropped/sub{s:02d}/{c}/reg_img46.jpg"),
    ("casme", CASME, "CASME II/Cropped-updated/Cropped/sub{s:02d}/{c}/reg_img46.JPG"),
    ("casme", CASME, "casme2/sub{s:02d}/{c}/img46.jpg"),
    ("casme", CASME, "casme2/{s}/{c}/img000046.bmp"),
    ("casme", CASME, "CASME2_RAW_selected/CASME2_RAW_selected/sub{s:02d}/{c}/img46.jpg"),
    ("casme", CASME, "sub{s:02d}/{c}/img46.jpg"),
    ("casme", CASME, "faces/SUB{s}/some/where/{c}/img46.png"),
    ("smic", SMIC, "smic/SMIC_HS_E/s{s:02d}/{c}/image000046.jpg"),
    ("smic", SMIC, "smic/HS_long/SMIC_HS_E/s{s:02d}/{c}/image000046.jpg"),
    ("smic", SMIC, "SMIC/HS_long/SMIC-HS-E/s{s:02d}/{c}/image000046.jpg"),
    ("smic", SMIC, "SMIC/SMIC-HS-E/s{s:02d}/{c}/image000046.jpg"),
    ("smic", SMIC, "smic/SMIC_all_cropped/HS/s{s}/micro/negative/{c}/reg_image046.jpg"),
    ("smic", SMIC, "SMIC_all_raw/HS/s{s:02d}/micro/negative/{c}/image046.bmp"),
    ("smic", SMIC, "HS/s{s}/micro/negative/{c}/image046.tif"),
    ("smic", SMIC, "smic/s{s:02d}/{c}/image46.tiff"),
    ("smic", SMIC, "s{s:02d}/{c}/image46.jpg"),
    ("samm", SAMM, "samm/SAMM/{s:03d}/{c}/{s:03d}_00046.jpg"),
    ("samm", SAMM, "SAMM_CROP/{s:03d}/{c}/{s:03d}_1_00046.jpeg"),
    ("samm", SAMM, "SAMM/SAMM_Cropped/{s}/{c}/{s:03d}_00046.jpg"),
    ("samm", SAMM, "{s:03d}/{c}/{s:03d}_00046.jpg"),
]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize("link", [False, True], ids=["folder", "link"])
@pytest.mark.parametrize(("data", "clips", "layout"), LAYOUTS, ids=[layout for _, _, layout in LAYOUTS])
def test_every_layout(tmp_path, data, clips, layout, link):
    root = tmp_path / "root"
    root.mkdir()
    top = layout.split("/")[0]
    link = link and "{" not in top
    paths = [layout.format(s=subject_number(subject), c=clip) for subject, clip in clips]
    for path in paths:
        touch((tmp_path / "elsewhere" if link else root) / path)
    if link:
        (root / top).symlink_to(tmp_path / "elsewhere" / top)
    folders = ClipFolders(data, clips, root)
    found = [folders.find(subject, clip, 46)[1] for subject, clip in clips]
    assert [{n: folders.relative(path) for n, path in frames.items()} for frames in found] == [
        {46: path} for path in paths]


def test_raw_comes_before_cropped_unless_told(tmp_path):
    for name in ("Cropped/sub01/EP02_01f/reg_img46.jpg", "Cropped/sub12/EP01_02/reg_img46.jpg",
                 "CASME2_RAW_selected/sub01/EP02_01f/img46.jpg"):
        touch(tmp_path / "casme2" / name)
    folders = ClipFolders("casme", CASME, tmp_path)
    assert folders.sources == ["casme2/CASME2_RAW_selected", "casme2/Cropped"]
    assert [folders.find(*clip, 46)[0] for clip in CASME] == ["casme2/CASME2_RAW_selected", "casme2/Cropped"]
    assert ClipFolders("casme", CASME, tmp_path, "cropped").find(*CASME[0])[0] == "casme2/Cropped"
    raw = ClipFolders("casme", CASME, tmp_path, "RAW")
    assert raw.find(*CASME[1])[1] == {}
    assert f"under {tmp_path} with --frames RAW; folders seen: " in raw.explain(*CASME[1], 46)
    with pytest.raises(InputError, match=r"--frames Croped: .*these do: .*nearest: casme2/Cropped$"):
        ClipFolders("casme", CASME, tmp_path, "Croped")


def test_the_folder_that_has_the_frame_is_taken(tmp_path):
    touch(tmp_path / "casme2/RAW/sub01/EP02_01f/img1.jpg")
    touch(tmp_path / "casme2/Cropped/sub01/EP02_01f/reg_img2.jpg")
    folders = ClipFolders("casme", CASME, tmp_path)
    assert [list(folders.find(*CASME[0], n)[1]) for n in (None, 1, 2, 3)] == [[1], [1], [2], [1]]
    assert folders.find(*CASME[1])[1] == {}


def test_the_folder_that_has_most_of_the_clip_is_taken(tmp_path):
    touch(tmp_path / "casme2/RAW/sub01/EP02_01f/img2.jpg")
    for number in (1, 2, 3):
        touch(tmp_path / f"casme2/Cropped/sub01/EP02_01f/reg_img{number}.jpg")
    folders = ClipFolders("casme", CASME, tmp_path)
    assert [folders.find(*CASME[0], *more)[0] for more in ([2], [2, (1, 3)], [4, (1, 3)])] == [
        "casme2/RAW", "casme2/Cropped", "casme2/Cropped"]


@pytest.mark.parametrize(("data", "clips", "part", "whole"), [
    ("casme", CASME, "CASME2_RAW_selected/sub01/EP02_01f/img46.jpg", "Cropped/sub{s:02d}/{c}/reg_img46.jpg"),
    ("casme", CASME, "casme2/sub01/EP02_01f/img46.jpg", "casme/sub{s:02d}/{c}/img46.jpg"),
    ("smic", SMIC, "SMIC-E-VIS/s1/micro/s1_ne_01/image46.jpg", "HS/s{s}/micro/{c}/image46.jpg"),
    ("samm", SAMM, "SAMM_CROP/006/006_1_2/006_46.jpg", "{s:03d}/{c}/{s:03d}_00046.jpg")])
def test_what_a_named_folder_lacks_is_looked_for_in_the_data_root(tmp_path, data, clips, part, whole):
    touch(tmp_path / part)
    for subject, clip in clips:
        touch(tmp_path / whole.format(s=subject_number(subject), c=clip))
    folders = ClipFolders(data, clips, tmp_path)
    assert all(46 in folders.find(*clip, 46)[1] for clip in clips)
    assert "VIS" not in " ".join(folders.sources)
    assert max(map(len, folders._found.values())) <= 2       # nothing is walked twice


def test_a_frames_usual_name_comes_first(tmp_path):
    for name in ("depth46.png", "img46.jpg", "flow_47.png", "006_00047.jpg", "back48.jpg"):
        touch(tmp_path / name)
    assert [path.name for path in list_frames(tmp_path).values()] == [
        "img46.jpg", "006_00047.jpg", "back48.jpg"]


def test_the_nearest_subject_above_a_clip_is_its_own(tmp_path):
    """A numbered folder above the subjects, such as a download in parts, is no subject."""
    touch(tmp_path / "casme2/2/sub01/EP02_01f/img1.jpg")
    touch(tmp_path / "casme2/2/sub02/EP02_01f/img2.jpg")
    folders = ClipFolders("casme", [("sub01", "EP02_01f"), ("sub02", "EP02_01f")], tmp_path)
    assert [list(folders.find(subject, "EP02_01f")[1]) for subject in ("sub01", "sub02")] == [[1], [2]]


@pytest.mark.parametrize("layout", ["12/sub{s:02d}/{c}", "sub{s:02d}/12/{c}", "s12/{s:02d}/{c}"])
def test_a_clip_of_another_subject_is_not_taken(tmp_path, layout):
    """Nor where its own subject is not in the list: 12 may be a class of clips, or a part of a download."""
    touch(tmp_path / "casme2" / layout.format(s=5, c="EP01_02") / "img46.jpg")
    folders = ClipFolders("casme", CASME, tmp_path)
    assert folders.sources == []
    touch(tmp_path / "casme2" / layout.format(s=12, c="EP01_02") / "img46.jpg")
    path = ClipFolders("casme", CASME, tmp_path).find(*CASME[1])[1][46]
    assert path.parent == tmp_path / "casme2" / layout.format(s=12, c="EP01_02")


def test_the_data_root_may_lie_below_what_it_links_to(tmp_path):
    touch(tmp_path / "sub01/EP02_01f/img46.jpg")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/data").symlink_to("..")
    assert ClipFolders("casme", CASME, tmp_path / "project/data").sources == ["."]


def test_each_database_keeps_to_its_own_folders(tmp_path):
    """The synthetic clips, CASME I and our caches carry CASME II's names; SMIC's VIS camera SMIC's."""
    for top in ("synthetic/sub01", "CASME1/sub01", "CASME III/sub01", "crops/casme/sub01", "SMIC/s1"):
        touch(tmp_path / top / "EP02_01f/img46.jpg")
    assert ClipFolders("casme", CASME, tmp_path).sources == []
    touch(tmp_path / "CASME2/sub01/EP02_01f/img46.jpg")
    assert ClipFolders("casme", CASME, tmp_path).sources == ["CASME2"]
    assert ClipFolders("synthetic", CASME, tmp_path).sources == ["synthetic"]
    for camera in ("VIS", "NIR", "SMIC_VIS_E", "VIS_long", "HS", "../SMIC_NIR_E"):
        touch(tmp_path / f"smic/{camera}/s1/s1_ne_01/image46.jpg")
    assert ClipFolders("smic", SMIC, tmp_path).sources == ["smic/HS"]
    touch(tmp_path / "CASME2/__MACOSX/CASME2/sub01/EP02_01f/._img46.jpg")
    assert ClipFolders("casme", CASME, tmp_path).sources == ["CASME2"]


def test_links_in_a_circle_end(tmp_path):
    touch(tmp_path / "smic/HS/s1/s1_ne_01/image46.jpg")
    for place, target in (("smic/up", ".."), ("smic/HS/self", "."), ("smic/HS/s1/root", "../../.."),
                          ("smic/dead", "nowhere"), ("smic/mirror", "mirror")):
        (tmp_path / place).symlink_to(target)
    folders = ClipFolders("smic", SMIC, tmp_path)
    assert folders.relative(folders.find(*SMIC[0])[1][46]) == "smic/HS/s1/s1_ne_01/image46.jpg"


def test_only_pictures_that_are_files_count(tmp_path):
    for name in ("006_1_00012.jpg", "img3.PNG", "reg_img10.jpg", "10.bmp", "._img4.jpg", "n5.txt", "f.jpg"):
        touch(tmp_path / "clip" / name)
    os.mkfifo(tmp_path / "clip/img6.jpg")
    (tmp_path / "clip/img7.jpg").mkdir()
    (tmp_path / "clip/img8.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "clip/img9.jpg").symlink_to("img3.PNG")
    found = {n: path.name for n, path in list_frames(tmp_path / "clip").items()}
    assert found == {3: "img3.PNG", 9: "img9.jpg", 10: "10.bmp", 12: "006_1_00012.jpg"}


def test_names_from_a_sheet_stay_in_the_data_root(tmp_path):
    touch(tmp_path / "casme2/sub01/EP01/img1.jpg")
    for clip in ("../sub01/EP01", "..", "/etc", "a/b", "a\nb", ""):
        assert ClipFolders("casme", [("sub01", clip)], tmp_path).find("sub01", clip) == ("", {})


def test_pictures_are_listed_only_of_the_clips_asked_for_and_once(tmp_path, monkeypatch):
    for clip in ("EP02_01f", "EP03_02"):
        touch(tmp_path / f"casme2/sub01/{clip}/img46.jpg")
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path).name) or scandir(path))
    folders = ClipFolders("casme", [("sub01", "EP02_01f"), ("sub01", "EP03_02")], tmp_path)
    assert not {"EP02_01f", "EP03_02"} & set(listed)
    for _ in range(3):
        assert len(folders.find("sub01", "EP02_01f")[1]) == 1
    assert listed.count("EP02_01f") == 1 and "EP03_02" not in listed


def test_what_was_not_found_is_explained(tmp_path):
    touch(tmp_path / "casme2/RAW/sub01/EP02_1f/img46.jpg")
    touch(tmp_path / "casme2/RAW/sub12/EP01_02/img7.jpg")
    touch(tmp_path / "casme2/RAW/sub12/EP01_02/img9.jpg")
    folders = ClipFolders("casme", CASME, tmp_path)
    text = folders.explain("sub01", "EP02_01f", 46)
    for words in ("casme/sub01/EP02_01f: looked for <sub01, s1 or 1>/.../EP02_01f/*46.jpg under ", "/",
                  "folders seen: casme2/RAW", "nearest: casme2/RAW/sub01/EP02_1f"):
        assert words in text
    text = folders.explain("sub12", "EP01_02", 46)
    assert text.startswith("casme/sub12/EP01_02: frame 46 was looked for, ")
    assert text.endswith("casme2/RAW/sub12/EP01_02 holds frames 7 to 9")
    assert "folders seen: none" in ClipFolders("samm", SAMM, tmp_path / "casme2/RAW/sub01/EP02_1f").explain(
        *SAMM[0], 1)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_folders_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "casme2/closed").mkdir(parents=True)
    (tmp_path / "casme2/closed").chmod(0)
    assert "could not be read: casme2/closed" in ClipFolders("casme", CASME, tmp_path).explain(*CASME[0], 1)
    (tmp_path / "casme2/closed").chmod(0o700)


@pytest.mark.parametrize(("text", "number"), [("sub01", 1), ("s1", 1), ("S01", 1), ("006", 6), ("6", 6),
                                              ("Subject 12", 12), ("s20_ne_01", None), ("006_1_2", None),
                                              ("HS", None), ("EP02_01f", None), ("", None)])
def test_subject_numbers(text, number):
    assert subject_number(text) == number


@pytest.mark.parametrize(("text", "name"), [("CASME", "casme"), ("CASME2", "casme"), ("casme2", "casme"),
                                            ("CASME II", "casme"), ("casme_ii", "casme"), ("SMIC", "smic"),
                                            ("SMIC-HS-E", "smic"), ("SAMM", "samm"),
                                            ("Composite", "composite"), ("synthetic", "synthetic")])
def test_database_names_as_people_write_them(text, name):
    assert database_name(text) == name
    assert squeeze(text) == squeeze(text.upper())


def test_an_unknown_database_gets_its_nearest(tmp_path):
    with pytest.raises(InputError, match="--dataset sam: no such database; did you mean samm"):
        database_name("sam")
    with pytest.raises(InputError, match="no such database; MEGC 2019 is --dataset composite --protocol"):
        database_name("MEGC2019")
    with pytest.raises(InputError, match="no such database"):
        database_name("CAS(ME)^2")
