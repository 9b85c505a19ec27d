"""The cached thirteen views and motion: made once, whole or not at all, never stale, the same after an
interruption."""

import importlib.util
import shutil
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from benchmarks.generated import generated
from capsule.inputs import motion as motion_module
from capsule.inputs import views as module
from capsule.inputs.motion import as_levels, face_motion
from capsule.inputs.rendered import cached_pictures
from capsule.inputs.views import single_pictures, thirteen_views
from common.errors import InputError
from common.files import read_json, write_json
from common.images import write_image
from deca import make_reconstructor
from deca.landmarks import LandmarkDetector, crop_square, warp_square
from deca.renderer import YAWS


@pytest.fixture(scope="module")
def photograph():
    photo = skimage.data.astronaut()
    center, side = crop_square(LandmarkDetector().detect(photo).points)
    return [torch.from_numpy(warp_square(photo, center + shift, side).transpose(2, 0, 1).copy())
            for shift in ((0, 0), (0, 1), (2, 0))]


@pytest.fixture
def crops(photograph, tmp_path):
    """Two clips: two frames of a photograph; one grey picture without a face."""
    clips, (stream,) = generated([1, 1], size=8)
    clips = replace(clips, data_root=tmp_path)
    images = torch.stack([photograph[0], photograph[1], torch.full((3, 224, 224), 90, dtype=torch.uint8)])
    return replace(stream, clips=clips, images=images, clip=np.array([0, 0, 1]),
                   is_apex=np.array([True, False, True]),
                   names=["synthetic/sub00/EP00/10", "synthetic/sub00/EP00/11", "synthetic/sub01/EP00/10"],
                   onsets=torch.stack([photograph[2], images[2]]), has_onset=np.array([True, False]))


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_views_are_made_once_and_read_back(crops, tmp_path, monkeypatch, capsys):
    first = thirteen_views(crops, "mesh", device="cpu")
    assert first.images.shape == (3, 13, 224, 224) and first.kind == "views" and first.channels == 39
    assert (tmp_path / "views/mesh/shape_detail/synthetic/sub00/EP00/10/-30.jpg").is_file()
    assert first.said[0]["clips"] == ["synthetic/sub01/EP00"] and "no face" in first.said[0]["what"]
    assert first.rule["reconstructor"] == "mesh" and first.rule["paint"] == "shape_detail"
    before = contents(tmp_path)
    maker = make_reconstructor("mesh", "cpu")
    monkeypatch.setattr(type(maker), "reconstruct", lambda *given: pytest.fail("rendered again"))
    again = thirteen_views(crops, "mesh", device="cpu")
    assert torch.equal(first.images,
                       again.images) and first.said == again.said and contents(tmp_path) == before
    line = "  no face for the views, its views show the mean face (1): synthetic/sub01/EP00\n"
    assert capsys.readouterr().out == 2 * line           # made or read back


def test_damaged_entries_and_other_rules_are_rendered_again(crops, tmp_path, monkeypatch):
    first = thirteen_views(crops, "mesh", device="cpu")
    before = contents(tmp_path)
    (tmp_path / "views/mesh/shape_detail/synthetic/sub00/EP00/11/0.jpg").write_bytes(b"cut")
    assert torch.equal(thirteen_views(crops, "mesh", device="cpu").images, first.images)
    assert contents(tmp_path) == before
    monkeypatch.setattr(module, "RULE", {**module.RULE, "version": 0})
    thirteen_views(crops, "mesh", device="cpu")
    keys = [path for path in before if path.name == "key.json"]
    assert all(contents(tmp_path)[path] != before[path] for path in keys)


def test_whatever_makes_the_pixels_is_in_the_key(crops):
    """A changed crop or onset renders its clip again; another maker, file, rule or yaw renders all."""
    rendered = []

    def render(row, own):
        rendered.append(row)
        return np.full((len(own), 2, 4, 4), row, np.uint8), [True]

    def made_of(crops=crops, version=1, file="a", rule=1, yaws=(0, 5), rasterizer="torch"):
        rendered.clear()
        maker = SimpleNamespace(name="fake", model={"net": file}, rule={"version": version},
                                rasterizer=rasterizer)
        images, rule, _ = cached_pictures(crops, maker, ("views", "x"), {"version": rule}, render, ".png",
                                          yaws)
        assert images[:, 0, 0, 0].tolist() == crops.clip.tolist()
        return sorted(rendered), rule

    first, rule = made_of()
    assert first == [0, 1] and made_of()[0] == []
    changed = crops.images.clone()
    changed[1, 0, 0, 0] += 1                            # clip 0's second frame
    assert made_of(replace(crops, images=changed))[0] == [0] and made_of()[0] == [0]
    onsets = crops.onsets.clone()
    onsets[1, 0, 0, 0] += 1
    assert made_of(replace(crops, onsets=onsets))[0] == [1] and made_of()[0] == [1]
    drawn = made_of(rasterizer="pytorch3d")[1]
    assert "rasterizer" not in rule and drawn == {**rule, "rasterizer": "pytorch3d"}
    made_of()
    for other in ({"version": 2}, {"file": "b"}, {"rule": 2}, {"yaws": (0, 10)}, {"rasterizer": "pytorch3d"}):
        there, told = made_of(**other)
        assert there == [0, 1] and told != rule and made_of()[0] == [0, 1], other


@pytest.mark.parametrize("lacking", ["sha256", "info"])
def test_a_key_that_tells_less_than_it_must_is_no_key(lacking, crops, tmp_path):
    first = thirteen_views(crops, "mesh", device="cpu")
    path = tmp_path / "views/mesh/shape_detail/synthetic/sub00/EP00/key.json"
    whole = read_json(path)
    write_json(path, {**whole, lacking: {}})
    assert torch.equal(thirteen_views(crops, "mesh", device="cpu").images, first.images)
    assert read_json(path) == whole


def test_given_views_show_what_paint_says(crops, tmp_path):
    for paint in ("shape_detail", "texture", "motion"):
        made = thirteen_views(crops, "mesh", paint, device="cpu")
        root = tmp_path / ("motion/mesh/views" if paint == "motion" else f"views/mesh/{paint}")
        assert torch.equal(thirteen_views(crops, paint=paint, views_root=str(root)).images, made.images)
        other = "texture" if paint == "motion" else "motion"
        with pytest.raises(InputError, match="show no motion" if other == "motion" else "show motion"):
            thirteen_views(crops, paint=other, views_root=str(root))


def test_texture_has_the_photographs_colours(crops):
    views = thirteen_views(crops, "mesh", "texture", device="cpu")
    assert views.images.shape == (3, 39, 224, 224) and views.kind == "texture"
    frontal = views.images[0, 18:21].float()
    skin = frontal[:, frontal.sum(0) > 30].mean(1)
    assert skin[0] > skin[1] > skin[2]                       # red, green, blue


def test_one_view_of_another_kind_among_given_ones_is_noticed(crops, tmp_path):
    thirteen_views(crops, "mesh", device="cpu")
    root = tmp_path / "views/mesh/shape_detail"
    write_image(root / "synthetic/sub00/EP00/10/25.jpg", np.full((224, 224, 3), (160, 130, 100), np.uint8))
    with pytest.raises(InputError, match="sub00/EP00/10: coloured views"):
        thirteen_views(crops, views_root=str(root))


@pytest.mark.skipif(importlib.util.find_spec("pytorch3d") is None, reason="pytorch3d is not installed")
def test_a_reconstructor_tells_its_rasterizer():
    makers = [make_reconstructor("mesh", "cpu", name) for name in ("auto", "torch", "pytorch3d")]
    assert [maker.rasterizer for maker in makers] == ["torch", "torch", "pytorch3d"]


def test_views_of_another_program_are_used_and_missing_ones_named(crops, tmp_path):
    root = tmp_path / "mine"
    for name in crops.names:
        for yaw in YAWS:
            write_image(root / name.split("/", 1)[1] / f"{yaw}.png", np.full((224, 224, 3), 100 + yaw,
                                                                             np.uint8))
    views = thirteen_views(crops, views_root=str(root))
    assert views.images[1, :, 0, 0].tolist() == [100 + yaw for yaw in YAWS]
    assert thirteen_views(crops, views_root=str(root), paint="texture").images.shape == (3, 39, 224, 224)
    write_image(root / "sub01/EP00/10/05.jpg", np.zeros((224, 224, 3), np.uint8))
    with pytest.raises(InputError, match=r"5\.png: of the same yaw as 05\.jpg"):
        thirteen_views(crops, views_root=str(root))
    (root / "sub01/EP00/10/05.jpg").unlink()
    other = root / "sub01/EP00/10/-30.png"
    write_image(other, np.full((224, 224, 3), (160, 130, 100), np.uint8))
    with pytest.raises(InputError, match=r"10: coloured views; --paint texture or motion"):
        thirteen_views(crops, views_root=str(root))
    write_image(other, np.zeros((200, 200, 3), np.uint8))
    with pytest.raises(InputError, match="views of different sizes"):
        thirteen_views(crops, views_root=str(root))
    (root / "sub01/EP00/10/5.png").unlink()
    with pytest.raises(InputError, match="no view of yaw 5"):
        thirteen_views(crops, views_root=str(root))
    shutil.rmtree(root / "sub00/EP00")
    with pytest.raises(InputError, match=r"no views of 2 of 3 frames: synthetic/sub00/EP00/10, synth.*/11;"):
        thirteen_views(crops, views_root=str(root))
    with pytest.raises(InputError, match=r"--views-root .*hers: no such folder"):
        thirteen_views(crops, views_root=str(tmp_path / "hers"))


def test_single_pictures_are_crops_and_views_of_their_clip(crops):
    pictures = single_pictures(crops, thirteen_views(crops, "mesh", device="cpu"))
    assert pictures.images.shape == (42, 3, 224, 224) and len(set(pictures.names)) == 42
    assert torch.equal(pictures.images[0], crops.images[0])
    assert pictures.is_apex.nonzero()[0].tolist() == [0, 28]
    assert pictures.clip.tolist() == [0] * 28 + [1] * 14


def test_motion_on_the_face_is_cached_and_a_missing_onset_said(crops, tmp_path):
    motion = face_motion(crops, "mesh", (0,), "cpu")
    assert motion.images.shape == (3, 3, 224, 224) and motion.kind == "motion" and motion.channels == 3
    u, v, strain = (motion.images[2, i].unique().tolist() for i in range(3))
    assert (u, v, strain) == ([128], [128], [0])             # no onset: nothing moves
    assert any("onset not on disk" in remark["what"] and remark["count"] == 1 for remark in motion.said)
    before = contents(tmp_path)
    assert torch.equal(face_motion(crops, "mesh", (0,), "cpu").images, motion.images)
    assert contents(tmp_path) == before


def test_clips_without_any_motion_are_refused(crops):
    table = crops.clips.table.assign(onset_frame=crops.clips.table["apex_frame"])
    still = replace(crops, clips=replace(crops.clips, table=table))
    for none in (replace(crops, has_onset=np.array([False, False])), still):
        with pytest.raises(InputError, match="there is no motion to see"):
            face_motion(none, "mesh", (0,), "cpu")


def test_an_onset_that_is_the_apex_or_comes_after_it_is_said(crops, capsys):
    table = crops.clips.table.assign(onset_frame=[10, 15])
    onsets = torch.stack([crops.images[0], crops.images[2]])
    crops = replace(crops, clips=replace(crops.clips, table=table), onsets=onsets,
                    has_onset=np.array([True, True]))
    motion = face_motion(crops, "mesh", (0,), "cpu")
    assert torch.equal(motion.images[0].amax((1, 2)), torch.tensor([128, 128, 0], dtype=torch.uint8))
    assert torch.equal(motion.images[0].amin((1, 2)), torch.tensor([128, 128, 0], dtype=torch.uint8))
    said = {remark["what"]: remark["clips"] for remark in motion.said}
    assert said["the onset is the apex: no motion"] == ["synthetic/sub00/EP00"]
    assert said["the onset comes after the apex"] == ["synthetic/sub01/EP00"]
    assert "the onset is the apex: no motion (1): synthetic/sub00/EP00" in capsys.readouterr().out


# Levels of 4 × 4 blocks: the views at -30 and 0 degrees; u, v (from 128) and strain of a smile.
VIEWS = {"shape_detail": [[[67.1, 145.5, 112.3, 16.5], [71.9, 165.4, 182.9, 89.4],
                           [40.1, 162.4, 171.4, 60.4], [0.1, 97.2, 85.3, 1.5]],
                          [[44.0, 145.7, 145.6, 43.4], [81.2, 162.8, 163.0, 82.5],
                           [52.8, 157.0, 157.8, 53.5], [2.0, 93.5, 94.3, 2.3]]],
         "texture": [[[79.9, 118.2, 43.9, 2.6], [98.5, 167.4, 146.4, 32.7],
                      [63.3, 160.3, 154.7, 36.0], [0.2, 120.2, 75.6, 1.5]],
                     [[52.1, 126.9, 110.1, 19.6], [103.3, 182.9, 164.7, 77.7],
                      [74.8, 186.5, 161.9, 60.8], [3.7, 122.5, 104.2, 3.3]]]}
MOTION = [[[0, 0, 0, 0], [0, 0, 0.1, 0], [-0.6, -12.9, 11.2, 1.8], [-0.1, -21.7, 12.4, 0.1]],
          [[0, 0, 0, 0], [0, 0, -0.1, 0], [-0.3, -12.0, -19.4, -1.0], [0, -22.5, -33.0, -0.1]],
          [[0.2, 0.5, 0.4, 0.1], [0.1, 0.6, 0.8, 0.1], [1.4, 16.8, 21.2, 2.9], [0.1, 15.3, 21.1, 0.3]]]


def _coarse(images):
    """Means of 4 × 4 blocks, (..., 224, 224) → (..., 4, 4): floating point differs between machines."""
    return images.double().unflatten(-1, (4, 56)).unflatten(-3, (4, 56)).mean((-3, -1))


def _smiling(photo):
    """A photograph, uint8 (3, 224, 224), whose mouth is a little wider and higher."""
    y, x = np.mgrid[:224, :224].astype(np.float32)
    near = 4 * np.exp(-((x - 112) ** 2 + (y - 160) ** 2) / 2 / 25 ** 2)
    moved = cv2.remap(photo.permute(1, 2, 0).numpy(), x - near * (x - 112) / 25, y + near, cv2.INTER_LINEAR)
    return torch.from_numpy(moved.transpose(2, 0, 1).copy())


def test_a_change_of_the_views_pixels_needs_a_new_version_of_the_rule(photograph):
    """Frontal and turned views of a fixed picture: where these change, a version must too."""
    maker = make_reconstructor("mesh", "cpu")
    assert (module.RULE["version"], maker.version) == (1, 8)
    for paint, expected in VIEWS.items():
        views = maker.views(photograph[0][None], paint)[0][0, [0, 6]]
        grey = views.float().mean(1) if paint == "texture" else views
        assert _coarse(grey).numpy() == pytest.approx(np.array(expected), abs=0.3)


def test_a_change_of_the_motions_pixels_needs_a_new_version_of_the_rule(photograph):
    """u, v and strain of a fixed movement: where these change, RULE's version must too."""
    moved, found = make_reconstructor("mesh", "cpu").motion(photograph[0], _smiling(photograph[0])[None])
    assert found.all() and motion_module.RULE["version"] == 4
    levels = _coarse(torch.from_numpy(as_levels(moved))[0, 0]) - torch.tensor([128, 128, 0])[:, None, None]
    assert levels.numpy() == pytest.approx(np.array(MOTION), abs=0.3)


def test_levels_of_motion_by_hand():
    motion = np.array([1.0, -0.5, 0.1], np.float32).reshape(1, 3, 1, 1)
    assert as_levels(motion).ravel().tolist() == [148, 118, 30]
