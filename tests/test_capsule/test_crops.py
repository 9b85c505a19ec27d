"""Frames on disk in every layout, the square of a clip, and the cache of crops."""

import dataclasses
import os
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st

import capsule.inputs.crops as frames_module
from capsule.data.folders import Folders, is_plain_name, numbered_images
from capsule.data.protocol import load_clips
from capsule.inputs.crops import clip_frames, clip_square, face_crops
from common.errors import InputError
from common.files import read_json
from common.images import read_image, write_image
from deca.landmarks import LandmarkDetector, crop_square, warp_square
from tests.make_database import make_database


def options(data_root, dataset="casme", **changes):
    values = {"dataset": dataset, "classes": 3, "protocol": "dsnca", "subset": "all", "skip_missing": False}
    return types.SimpleNamespace(**{**values, "data_root": str(data_root), **changes})


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def database(tmp_path):
    return make_database(tmp_path, "casme", subjects=2)


@pytest.fixture(scope="module")
def astronaut():
    return skimage.data.astronaut()[:300, 60:400]       # the face and room round it


@pytest.fixture(scope="module")
def detector():
    return LandmarkDetector()


@pytest.mark.parametrize(("data", "subject", "clip", "path", "number"), [
    ("casme", "sub01", "EP02_01f", "casme2/CASME2_RAW_selected/sub01/EP02_01f/img46.jpg", 46),
    ("casme", "sub01", "EP02_01f", "CASME2/Cropped/sub01/EP02_01f/reg_img46.JPG", 46),
    ("casme", "sub01", "EP02_01f", "casme2/Sub01/ep02_01F/img000046.bmp", 46),
    ("smic", "20", "s20_ne_01", "smic/SMIC_HS_E/s20/s20_ne_01/image17581039.jpg", 17581039),
    ("smic", "3", "s3_po_01", "SMIC/HS_long/SMIC_HS_E/s03/s3_po_01/image000046.png", 46),
    ("smic", "3", "s3_po_01", "smic/s3/s3_po_01/image46.tif", 46),
    ("samm", "006", "006_1_2", "samm/SAMM/006/006_1_2/006_05562.jpg", 5562),
    ("samm", "006", "006_1_2", "SAMM/006/006_1_2/006_1_05562.jpeg", 5562),
    ("synthetic", "sub01", "EP01_01", "synthetic/Cropped/sub01/EP01_01/reg_img9.png", 9),
])
def test_every_layout(tmp_path, data, subject, clip, path, number):
    touch(tmp_path / path)
    folders = Folders(tmp_path)
    found = folders.frames(data, subject, clip)
    assert list(found) == [number] and folders.relative(found[number]) == path


def test_frame_number_is_the_last_run_of_digits_and_other_files_are_ignored(tmp_path):
    names = ["006_1_00012.jpg", "img3.PNG", "reg_img10.jpg", "10.bmp", "._img4.jpg", "notes5.txt", "face.jpg"]
    found = numbered_images([Path(name) for name in names])
    assert {n: path.name for n, path in found.items()} == {3: "img3.PNG", 10: "10.bmp", 12: "006_1_00012.jpg"}


def test_links_and_the_layout_that_has_the_frame(tmp_path):
    touch(tmp_path / "elsewhere" / "CASME2_RAW_selected" / "sub01" / "EP01" / "img1.jpg")
    touch(tmp_path / "elsewhere" / "Cropped" / "sub01" / "EP01" / "reg_img2.jpg")
    root = tmp_path / "root"
    root.mkdir()
    (root / "CASME2").symlink_to(tmp_path / "elsewhere")
    folders = Folders(root)
    assert list(folders.frames("casme", "sub01", "EP01")) == [1]
    assert list(folders.frames("casme", "sub01", "EP01", wanted=2)) == [2]
    assert list(folders.frames("casme", "sub01", "EP01", wanted=3)) == [1]
    assert folders.frames("casme", "sub02", "EP01") == {}
    with pytest.raises(InputError, match="not a plain folder name"):
        folders.frames("casme", "sub01", "../sub01/EP01")


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    for n in range(4):
        touch(tmp_path / "casme2" / "sub01" / "EP01" / f"img{n}.jpg")
    listed, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(str(path)) or listdir(path))
    folders = Folders(tmp_path)
    for _ in range(3):
        assert len(folders.frames("casme", "sub01", "EP01")) == 4
    assert len(listed) == len(set(listed)) and sum(path.endswith("EP01") for path in listed) == 1


@given(st.text(max_size=30))
def test_plain_names_stay_inside(name):
    if is_plain_name(name):
        assert Path("/root", name).parent == Path("/root")
        assert os.path.normpath(f"/root/{name}") == f"/root/{name}"


def test_crops_of_every_frame_in_order(database):
    clips = load_clips(options(database))
    crops = face_crops(clips, options(database))
    assert crops.images.shape == (30, 3, 224, 224) and crops.images.dtype == torch.uint8
    assert crops.offset.tolist() == [-2, -1, 0, 1, 2] * 6
    assert crops.clip.tolist() == np.repeat(range(6), 5).tolist()
    assert crops.names[:2] == ["casme/sub01/EP01_01f/12", "casme/sub01/EP01_01f/13"]
    assert crops.kind == "crop" and crops.missing_neighbours == 0 and len(crops) == 30
    direct = read_image(database / clips.table["apex_frame_path"][1])
    center, side, how = clip_square(direct, LandmarkDetector())
    expected = warp_square(direct, center, side).transpose(2, 0, 1)
    assert how == "no face" and np.array_equal(crops.images[7].numpy(), expected)


def test_faceless_clips_are_listed(database, capsys):
    clips = load_clips(options(database))
    crops = face_crops(clips, options(database))
    assert crops.fallback == tuple(clips.keys) and crops.notes["squares"] == {"no face": 6}
    manifest = read_json(database / "crops" / "fallback_casme_3.json")
    assert manifest["clips"][0] == {"clip": "casme/sub01/EP01_01f", "frame": "img11.jpg"}
    assert "no face found in 6 of 6 clips" in capsys.readouterr().out


def test_a_part_of_the_clips_leaves_the_manifest_alone(database):
    clips = load_clips(options(database))
    face_crops(clips, options(database))
    manifest = database / "crops" / "fallback_casme_3.json"
    before = manifest.read_bytes()
    part = dataclasses.replace(clips, table=clips.table.iloc[2:4].reset_index(drop=True))
    assert face_crops(part, options(database)).fallback == tuple(clips.keys[2:4])
    assert manifest.read_bytes() == before


def test_missing_neighbours_are_counted_and_missing_apexes_listed(database):
    clips = load_clips(options(database))
    apex = database / clips.table["apex_frame_path"][0]
    apex.with_name("img13.jpg").unlink()
    apex.with_name("img16.jpg").unlink()
    crops = face_crops(load_clips(options(database)), options(database))
    assert crops.missing_neighbours == 2 and crops.offset[:3].tolist() == [-2, 0, 1]
    apex.unlink()
    with pytest.raises(InputError, match=r"1 of 6 clips have no apex frame.*EP01_01f.*--skip-missing"):
        face_crops(load_clips(options(database)), options(database))
    skipped = load_clips(options(database, skip_missing=True))
    assert set(face_crops(skipped, options(database)).clip) == set(range(5))


def test_the_first_twenty_missing_are_named(tmp_path):
    make_database(tmp_path, "samm", subjects=3, clips_per_subject=9, frames=1, size=16)
    shutil.rmtree(tmp_path / "samm")
    with pytest.raises(InputError) as caught:
        face_crops(load_clips(options(tmp_path, "samm")), options(tmp_path, "samm"))
    assert str(caught.value).count("samm/00") == 20 and "and 7 more" in str(caught.value)


def test_no_picture_is_read_twice_and_none_from_the_cache(database, monkeypatch):
    clips, read = load_clips(options(database)), []
    onset_is_neighbour = clips.table["onset_frame_path"][0]
    monkeypatch.setattr(frames_module, "read_image", lambda path: read.append(path) or read_image(path))
    first = face_crops(clips, options(database))
    assert len(read) == len(set(read)) == 36 and database / onset_is_neighbour in read
    read.clear()
    second = face_crops(clips, options(database))
    assert read == [] and torch.equal(first.images, second.images) and first.notes == second.notes


def _entries(root):
    return sorted((root / "crops").rglob("*.npz"))


def test_changed_pictures_are_cropped_anew(database):
    config = options(database)
    clips = load_clips(config)
    before = face_crops(clips, config).images
    path = database / clips.table["apex_frame_path"][0]
    write_image(path, np.full((64, 64, 3), 200, np.uint8))
    after = face_crops(clips, config).images
    assert not torch.equal(before[2], after[2]) and torch.equal(before[3:], after[3:])
    assert after[2].float().mean() > 190


@pytest.mark.parametrize("damage", ["empty", "half", "text", "pickle", "one bit", "bracket"])
def test_damaged_cache_entries_are_made_again(database, damage):
    config = options(database)
    clips = load_clips(config)
    before = face_crops(clips, config).images
    entry = _entries(database)[0]
    whole = entry.read_bytes()
    middle = len(whole) // 2
    assert whole.count(b"224, 3), }") == 1
    entry.write_bytes({"empty": b"", "half": whole[:middle], "text": b"not an archive",
                       "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
                       "bracket": whole.replace(b"224, 3), }", b"224, 3,  }"),
                       "one bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]}[damage])
    assert torch.equal(face_crops(clips, config).images, before)
    assert entry.read_bytes() == whole


def test_half_written_entries_and_other_rules_are_not_read(database, monkeypatch):
    config = options(database)
    clips = load_clips(config)
    face_crops(clips, config)
    entries = _entries(database)
    entries[0].with_name(".EP01.part.npz").write_bytes(entries[1].read_bytes())
    monkeypatch.setattr(frames_module, "OVERHANG", 0.5)
    face_crops(clips, config)
    assert len({path.relative_to(database / "crops").parts[0] for path in _entries(database)}) == 2


def test_unreadable_picture_names_the_file_and_keeps_the_rest(database):
    config = options(database)
    clips = load_clips(config)
    path = database / clips.table["apex_frame_path"][5]
    good = path.read_bytes()
    path.write_bytes(good[:200])
    with pytest.raises(InputError, match=str(path)):
        face_crops(clips, config)
    path.write_bytes(good)
    assert len(face_crops(clips, config)) == 30


def test_frames_of_one_clip_must_have_one_size(database):
    clips = load_clips(options(database))
    write_image(database / clips.table["apex_frame_path"][0], np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(InputError, match=r"img14.jpg: 64x32 pixels, but img11.jpg of the same clip"):
        face_crops(clips, options(database))


def test_square_of_a_roomy_picture_is_decas(astronaut, detector):
    center, side, how = clip_square(astronaut, detector)
    expected_center, expected_side = crop_square(detector.detect(astronaut).points)
    assert how == "landmarks" and side == expected_side and np.array_equal(center, expected_center)


def test_tight_square_crop_passes_through_unchanged(astronaut, detector):
    center, side = crop_square(detector.detect(astronaut).points)
    tight = warp_square(astronaut, center, side / 1.3)
    found, length, how = clip_square(tight, detector)
    assert how == "inside" and length == 224
    assert np.array_equal(warp_square(tight, found, length), tight)


def test_tight_portrait_crop_keeps_the_face_and_gets_no_border(astronaut, detector):
    """280x340 like CASME II's own `Cropped`: the largest square inside it, round the face."""
    center, side = crop_square(detector.detect(astronaut).points)
    tall = warp_square(astronaut, center - [0, side * 0.05], side, 340)[:, 30:310]
    tall = np.maximum(tall, 1)
    found, length, how = clip_square(tall, detector)
    assert how == "inside" and length == 280
    points = detector.detect(tall).points
    assert (np.abs(points - found) < length / 2).all()
    assert warp_square(tall, found, length)[2:-2, 2:-2].min() > 0


def test_face_at_the_edge_stays_large(astronaut, detector):
    center, side = crop_square(detector.detect(astronaut).points)
    edge = astronaut[int(center[1] - side * 0.4):]      # cut off above the brow: a tenth sticks out
    found, length, how = clip_square(edge, detector)
    assert how == "inside" and length < 1.1 * side and found[1] == pytest.approx(length / 2 - 0.5)


def test_landmarks_that_no_inner_square_holds_give_the_whole_picture():
    """A face as wide as a 100x40 strip: the largest inner square would cut it in two."""
    points = np.stack([np.linspace(2, 97, 68), np.linspace(2, 37, 68)], axis=1)
    strip, found = np.zeros((40, 100, 3), np.uint8), types.SimpleNamespace(points=points)
    center, side, how = clip_square(strip, types.SimpleNamespace(detect=lambda image: found))
    assert (how, side, center.tolist()) == ("whole", 100, [49.5, 19.5])


def test_one_square_for_all_frames_of_a_clip(tmp_path, astronaut, detector):
    """The apex frame is shifted by 9 pixels: its crop must show the shift."""
    make_database(tmp_path, "casme", subjects=1, clips_per_subject=1, frames=3)
    config = options(tmp_path)
    clips = load_clips(config)
    onset, apex = (tmp_path / clips.table[f"{moment}_frame_path"][0] for moment in ("onset", "apex"))
    shifted = np.roll(astronaut, 9, axis=1)     # the same size, the face elsewhere
    for path in sorted(onset.parent.iterdir()):
        write_image(path, shifted if path == apex else astronaut, quality=100)
    crops = face_crops(clips, config)
    center, side = crop_square(detector.detect(read_image(onset)).points)
    expected = warp_square(read_image(apex), center, side).transpose(2, 0, 1)      # (H, W, 3) → (3, H, W)
    assert np.array_equal(crops.images[1].numpy(), expected)
    assert crops.fallback == () and crops.notes["squares"] == {"landmarks": 1}
    assert read_json(tmp_path / "crops" / "fallback_casme_3.json")["clips"] == []


def test_the_apex_gives_the_square_where_the_onset_is_not_on_disk(database):
    clips = load_clips(options(database))
    (database / clips.table["onset_frame_path"][0]).unlink()
    crops = face_crops(load_clips(options(database)), options(database))
    assert crops.notes["onset_not_on_disk"] == 1 and len(crops) == 30
    manifest = read_json(database / "crops" / "fallback_casme_3.json")
    assert manifest["clips"][0]["frame"] == "img14.jpg"


def test_clip_frames_run_from_onset_to_offset(database):
    row = next(load_clips(options(database)).table.itertuples())
    touch(database / Path(row.apex_frame_path).parent / "img99.jpg")
    found = clip_frames(row, options(database))
    assert list(found) == list(range(11, 18)) and all(path.is_file() for path in found.values())


def test_arguments_are_not_changed(database):
    config = options(database)
    clips = load_clips(config)
    table, notes = clips.table.copy(), dict(clips.notes)
    crops = face_crops(clips, config)
    moved = crops.to("cpu")
    assert clips.table.equals(table) and clips.notes == notes and moved.names == crops.names
