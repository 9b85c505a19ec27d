"""The square of a clip, its crops, and their cache."""

import json
import os
import shutil
import types
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch

import capsule.inputs.crops as frames_module
from capsule.data import load_clips
from capsule.inputs.crops import clip_square, face_crops
from common.cache import digest, read_entry, write_entry
from common.errors import InputError
from common.images import read_image, write_image
from deca.landmarks import LandmarkDetector, crop_square, warp_square
from tests.make_database import make_database


def load(data_root, dataset="casme", **options):
    return load_clips(dataset, data_root, **options)


def said(crops):
    """{first words of a remark: its clips}."""
    return {remark["what"].split(",")[0]: remark["clips"] for remark in crops.said}


@pytest.fixture
def database(tmp_path):
    return make_database(tmp_path, "casme", subjects=2)


@pytest.fixture(scope="module")
def astronaut():
    return skimage.data.astronaut()[:300, 60:400]       # the face and room round it


@pytest.fixture(scope="module")
def detector():
    return LandmarkDetector()


def test_crops_of_every_frame_in_order(database):
    clips = load(database)
    crops = face_crops(clips)
    assert crops.images.shape == (30, 3, 224, 224) and crops.images.dtype == torch.uint8
    assert crops.is_apex.tolist() == [False, False, True, False, False] * 6
    assert crops.clip.tolist() == np.repeat(range(6), 5).tolist()
    assert crops.names[:2] == ["casme/sub01/EP01_01f/12", "casme/sub01/EP01_01f/13"]
    assert crops.kind == "crop" and crops.channels == 3 and len(crops) == 30
    assert crops.onsets.shape == (6, 3, 224, 224) and crops.has_onset.all()
    direct = read_image(database / clips.table["apex_frame_path"][1])
    center, side, how = clip_square(direct, LandmarkDetector())
    expected = warp_square(direct, center, side).transpose(2, 0, 1)
    assert how == "no face" and np.array_equal(crops.images[7].numpy(), expected)


def test_other_pixels_have_another_digest_whatever_the_files_are_called(database):
    clips = load(database)
    first = face_crops(clips).pixels
    onset = database / clips.table["onset_frame_path"][0]
    write_image(onset, 255 - read_image(onset))
    assert face_crops(load(database)).pixels != first
    onset.unlink()
    assert face_crops(load(database)).pixels != first


def test_faceless_clips_are_listed(database, capsys):
    clips = load(database)
    crops = face_crops(clips)
    assert said(crops) == {"no face was found": clips.keys}
    assert "no face was found, the whole picture is the crop (6)" in capsys.readouterr().out


def test_missing_neighbours_are_counted_and_missing_apexes_listed(database):
    clips = load(database)
    apex = database / clips.table["apex_frame_path"][0]
    apex.with_name("img13.jpg").unlink()
    apex.with_name("img16.jpg").unlink()
    crops = face_crops(load(database))
    assert said(crops)["neighbours of the apex are not on disk"] == clips.keys[:1]
    assert crops.is_apex[:3].tolist() == [False, True, False]
    apex.unlink()
    with pytest.raises(InputError, match=r"1 of 6 clips have no apex frame.*EP01_01f.*--skip-missing"):
        face_crops(load(database))
    skipped = load(database, skip_missing=True)
    assert set(face_crops(skipped).clip) == set(range(5))


def test_the_first_ten_missing_are_named(tmp_path):
    make_database(tmp_path, "samm", subjects=3, clips_per_subject=9, frames=1, size=16)
    shutil.rmtree(tmp_path / "samm")
    with pytest.raises(InputError) as caught:
        face_crops(load(tmp_path, "samm"))
    assert str(caught.value).split(";")[0].count("samm/00") == 10 and "and 17 more" in str(caught.value)
    assert "data/README.md" in str(caught.value) and "--skip-missing" not in str(caught.value)


def test_no_picture_is_read_twice_and_none_from_the_cache(database, monkeypatch):
    clips, read = load(database), []
    onset_is_neighbour = clips.table["onset_frame_path"][0]
    monkeypatch.setattr(frames_module, "read_image", lambda path: read.append(path) or read_image(path))
    first = face_crops(clips)
    assert len(read) == len(set(read)) == 36 and database / onset_is_neighbour in read
    read.clear()
    second = face_crops(clips)
    assert read == [] and torch.equal(first.images, second.images) and first.said == second.said


def _entries(root):
    return sorted((root / "crops").rglob("key.json"))


def test_changed_pictures_are_cropped_anew(database):
    clips = load(database)
    before = face_crops(clips).images
    path = database / clips.table["apex_frame_path"][0]
    write_image(path, np.full((64, 64, 3), 200, np.uint8))
    after = face_crops(clips).images
    assert not torch.equal(before[2], after[2]) and torch.equal(before[3:], after[3:])
    assert after[2].float().mean() > 190


def test_other_pixels_are_seen_whatever_size_and_time_say(database):
    clips = load(database)
    path = database / clips.table["apex_frame_path"][0]
    before, status, data = face_crops(clips).pixels, path.stat(), path.read_bytes()
    path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size and face_crops(clips).pixels != before


def test_another_apex_gives_another_square_where_the_onset_is_not_on_disk(database):
    clips, keys = load(database), set()
    apex = database / clips.table["apex_frame_path"][0]
    for number in (11, 12, 16, 17):
        apex.with_name(f"img{number}.jpg").unlink()
    for number in (13, 14):         # either apex sees frames 13 to 15
        table = clips.table.copy()
        path = apex.with_name(f"img{number}.jpg").relative_to(database).as_posix()
        table.loc[0, ["apex_frame", "apex_frame_path"]] = number, path
        assert len(face_crops(replace(clips, table=table)).images) == 28
        keys.add(json.loads(_entries(database)[0].read_text())["key"])
    assert len(keys) == 2


@pytest.mark.parametrize("damage", ["empty", "half", "text", "list", "one bit", "gone"])
@pytest.mark.parametrize("which", ["key.json", "14.png"])
def test_damaged_cache_entries_are_made_again(database, damage, which):
    clips = load(database)
    before = face_crops(clips).images
    file = _entries(database)[0].with_name(which)
    whole = file.read_bytes()
    middle = len(whole) // 2
    damaged = {"empty": b"", "half": whole[:middle], "text": b"not an archive", "list": b"[]", "gone": b"",
               "one bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]}[damage]
    file.unlink() if damage == "gone" else file.write_bytes(damaged)
    assert torch.equal(face_crops(clips).images, before)
    assert file.read_bytes() == whole


def test_a_whole_picture_of_another_entry_is_not_taken_for_the_own_one(tmp_path):
    own, other = np.full((4, 4, 3), 10, np.uint8), np.full((4, 4, 3), 90, np.uint8)
    write_entry(tmp_path / "own", "key", {"a.png": own}, {})
    write_entry(tmp_path / "other", "key", {"a.png": other}, {})
    assert (read_entry(tmp_path / "own", "key")[0]["a.png"] == own).all()
    shutil.copy(tmp_path / "other" / "a.png", tmp_path / "own" / "a.png")
    assert read_entry(tmp_path / "own", "key") is None


def test_entries_of_another_rule_are_not_read(database, monkeypatch):
    clips = load(database)
    face_crops(clips)
    before = [path.read_bytes() for path in _entries(database)]
    monkeypatch.setattr(frames_module, "RULE", {**frames_module.RULE, "version": 0})
    face_crops(clips)
    assert all(path.read_bytes() != old for path, old in zip(_entries(database), before, strict=True))


def test_a_change_of_pixels_needs_a_new_version_of_the_rule(astronaut, detector):
    """The crop of a fixed picture: where this digest changes, RULE's version must too."""
    center, side, _ = clip_square(astronaut, detector)
    coarse = warp_square(astronaut, center, side).reshape(14, 16, 14, 16, 3).mean((1, 3, 4)).round()
    assert (frames_module.RULE["version"], digest(coarse.tolist())) == (2, "59bae363b9a390fd")


def test_a_read_only_data_root_with_a_complete_cache_is_usable(database, monkeypatch):
    clips = load(database)
    before = face_crops(clips).images
    monkeypatch.setattr("common.files.os.replace", lambda *paths: (_ for _ in ()).throw(OSError(30, "ro")))
    assert torch.equal(face_crops(clips).images, before)


def test_unreadable_picture_names_the_file_and_keeps_the_rest(database):
    clips = load(database)
    path = database / clips.table["apex_frame_path"][5]
    good = path.read_bytes()
    path.write_bytes(good[:200])
    with pytest.raises(InputError, match=str(path)):
        face_crops(clips)
    path.write_bytes(good)
    assert len(face_crops(clips)) == 30


def test_frames_of_one_clip_must_have_one_size(database):
    clips = load(database)
    write_image(database / clips.table["apex_frame_path"][0], np.zeros((32, 64, 3), np.uint8))
    with pytest.raises(InputError, match=r"img14.jpg: 64x32 pixels, but img11.jpg of the same clip"):
        face_crops(clips)


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
    clips = load(tmp_path)
    onset, apex = (tmp_path / clips.table[f"{moment}_frame_path"][0] for moment in ("onset", "apex"))
    shifted = np.roll(astronaut, 9, axis=1)     # the same size, the face elsewhere
    for path in sorted(onset.parent.iterdir()):
        write_image(path, shifted if path == apex else astronaut, quality=100)
    crops = face_crops(clips)
    center, side = crop_square(detector.detect(read_image(onset)).points)
    expected = warp_square(read_image(apex), center, side).transpose(2, 0, 1)      # (H, W, 3) → (3, H, W)
    assert np.array_equal(crops.images[1].numpy(), expected)
    assert said(crops) == {"neighbours of the apex are not on disk": clips.keys}


def test_the_apex_gives_the_square_where_the_onset_is_not_on_disk(database):
    clips = load(database)
    (database / clips.table["onset_frame_path"][0]).unlink()
    crops = face_crops(load(database))
    assert said(crops)["the onset frame is not on disk"] == clips.keys[:1] and len(crops) == 30
    assert crops.has_onset.tolist() == [False] + [True] * 5


def test_arguments_are_not_changed(database):
    clips = load(database)
    table, notes = clips.table.copy(), dict(clips.notes)
    face_crops(clips)
    assert clips.table.equals(table) and clips.notes == notes
