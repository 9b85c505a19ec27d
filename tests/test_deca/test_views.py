"""The cached thirteen views: made once, whole or not at all, never stale, the same after an interruption."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage import data

from capsule.inputs.views import Maker, choose_reconstructor, thirteen_views
from common.errors import InputError
from deca import views as module
from deca.landmarks import LandmarkDetector, crop_square, warp_square
from deca.renderer import YAWS

CLIPS = SimpleNamespace(name="tiny", dataset="tiny")


@dataclass(frozen=True)
class Frames:
    """What `thirteen_views` needs of the crops (the experiments pass capsule.inputs.crops.FrameImages)."""

    images: torch.Tensor
    clip: np.ndarray
    offset: np.ndarray
    names: list
    kind: str = "crop"
    notes: dict = field(default_factory=dict)


@pytest.fixture(scope="module")
def crops():
    """Two clips of one photograph (frames 0 and +1; frame 0) and one clip without a face."""
    photo = data.astronaut()
    center, side = crop_square(LandmarkDetector().detect(photo).points)
    pictures = [warp_square(photo, center + shift, side) for shift in ((0, 0), (0, 1), (2, 0))]
    pictures.append(np.full((224, 224, 3), 90, np.uint8))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return Frames(images, np.array([0, 0, 1, 2]), np.array([0, 1, 0, 0]),
                  ["tiny/s1/a/10", "tiny/s1/a/11", "tiny/s1/b/7", "tiny/s2/c/3"])


@pytest.fixture(scope="module")
def made(crops, tmp_path_factory):
    """The data root of an uninterrupted run, and its result."""
    root = tmp_path_factory.mktemp("data")
    return root, thirteen_views(CLIPS, crops, config(root))


def config(root, reconstructor="landmarks"):
    return SimpleNamespace(data_root=str(root), reconstructor=reconstructor, device="cpu")


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def copy_of(root, target):
    for path, blob in contents(root).items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(blob)
    return target


def counting(monkeypatch, stop_at=None):
    """Count the clips that are rendered; from the given one on, Ctrl-C."""
    rendered, views = [], Maker.views

    def counted(self, pictures, points):
        rendered.append(len(pictures))
        if stop_at and len(rendered) >= stop_at:
            raise KeyboardInterrupt
        return views(self, pictures, points)

    monkeypatch.setattr(Maker, "views", counted)
    return rendered


def test_thirteen_grey_views_of_each_frame(crops, made):
    root, views = made
    assert views.images.shape == (4, 13, 224, 224) and views.images.dtype == torch.uint8
    assert views.kind == "views" and views.names == crops.names and crops.kind == "crop"
    assert views.notes["reconstructor"] == "landmarks" and views.notes["head"] == "sample"
    frontal = views.images[0, 6].float()
    assert 60 < frontal[60:180, 60:160].mean() < 240 and frontal[0, 0] == 0
    mean = views.images[3].float()
    assert (mean.flip(0, 2) - mean).abs().mean() < 1.5          # the mean head is symmetric
    assert (views.images[0, 0].float() - views.images[0, 12].float()).abs().mean() > 5
    folder = root / "views" / "landmarks" / "tiny" / "s1" / "a" / "10"
    assert {path.name for path in folder.iterdir()} == {"key.json", *(f"{yaw}.jpg" for yaw in YAWS)}


def test_a_clip_without_a_face_is_reported(made):
    root, views = made
    assert views.notes["views_fallback"] == ["tiny/s2/c"]
    manifest = json.loads((root / "views" / "landmarks" / "fallback_tiny.json").read_text())
    assert manifest["clips"] == ["tiny/s2/c"] and "mean head" in manifest["what"]


def test_cached_views_are_read_and_are_the_same(crops, made, monkeypatch, capsys):
    root, views = made
    rendered = counting(monkeypatch)
    again = thirteen_views(CLIPS, crops, config(root, "auto"))
    assert not rendered
    assert torch.equal(again.images, views.images) and again.notes == views.notes
    output = "".join(capsys.readouterr())
    assert "reconstructor landmarks" in output and "no face found in 1 of 3 clips" in output


@pytest.mark.parametrize("damage", ["truncated", "other picture", "no key", "half a key", "missing"])
def test_a_damaged_entry_is_made_again(crops, made, tmp_path, monkeypatch, damage):
    root, views = copy_of(made[0], tmp_path), made[1]
    folder = root / "views" / "landmarks" / "tiny" / "s1" / "b" / "7"
    jpeg, key = folder / "-10.jpg", folder / "key.json"
    if damage == "truncated":
        jpeg.write_bytes(jpeg.read_bytes()[:500])
    elif damage == "other picture":
        jpeg.write_bytes((folder / "30.jpg").read_bytes())
    elif damage == "no key":
        key.unlink()
    elif damage == "half a key":
        key.write_text(key.read_text()[:40])
    else:
        jpeg.unlink()
    rendered = counting(monkeypatch)
    again = thirteen_views(CLIPS, crops, config(root))
    assert rendered == [1]
    assert torch.equal(again.images, views.images)
    assert contents(root) == contents(made[0])


def test_another_crop_never_reads_stale_views(crops, made, tmp_path, monkeypatch):
    root = copy_of(made[0], tmp_path)
    images = crops.images.clone()
    images[2, 0, 0, 0] ^= 1                                     # one bit of one pixel
    rendered = counting(monkeypatch)
    thirteen_views(CLIPS, Frames(images, crops.clip, crops.offset, crops.names), config(root))
    assert rendered == [1]


def test_another_rule_or_head_has_another_key(made, monkeypatch):
    key = made[1].notes["key"]
    assert Maker("landmarks", "cpu").key == key
    monkeypatch.setitem(module.fitting.RULE, "version", -1)
    assert Maker("landmarks", "cpu").key != key
    monkeypatch.undo()
    head = module.fitting.sample_head()
    values = {**vars(head), "template": head.template * 1.001}
    monkeypatch.setattr(module.fitting, "default_head", lambda folder: type(head)(**values))
    assert Maker("landmarks", "cpu").key != key


def test_an_interrupted_run_goes_on_to_the_same_bytes(crops, made, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_RENDERING", 1)             # one clip after the other
    counting(monkeypatch, stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        thirteen_views(CLIPS, crops, config(tmp_path))
    monkeypatch.undo()
    rendered = counting(monkeypatch)
    views = thirteen_views(CLIPS, crops, config(tmp_path))
    assert len(rendered) == 2                                   # the first clip was on disk
    assert torch.equal(views.images, made[1].images)
    assert contents(tmp_path) == contents(made[0])


def test_old_views_lose_their_key_before_new_ones_are_written(crops, made, tmp_path, monkeypatch):
    """A run of another rule that dies half-way leaves nothing that the first rule would trust."""
    root = copy_of(made[0], tmp_path)

    def dies(path, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_bytes", dies)
    monkeypatch.setitem(module.fitting.RULE, "version", -1)
    with pytest.raises(KeyboardInterrupt):
        thirteen_views(CLIPS, crops, config(root))
    assert len(list(root.rglob("key.json"))) < len(list(made[0].rglob("key.json")))


def test_a_face_is_looked_for_in_the_other_frames_of_its_clip(crops):
    pictures = crops.images[[3, 0]].permute(0, 2, 3, 1).contiguous().numpy()      # no face at the apex
    points = Maker("landmarks", "cpu").points(pictures, np.array([0, 1]))
    alone = LandmarkDetector().detect(pictures[1]).points
    assert np.array_equal(points[1], alone)


def test_which_reconstructor(tmp_path):
    assert choose_reconstructor("auto", tmp_path)[0] == "landmarks"
    assert "official DECA files are not all" in choose_reconstructor("auto", tmp_path)[1]
    with pytest.raises(InputError, match="--check"):
        choose_reconstructor("deca", tmp_path)
    with pytest.raises(InputError, match="choose one of"):
        choose_reconstructor("magic", tmp_path)


def test_official_files_are_chosen_and_used(crops, official, tmp_path, monkeypatch):
    assert choose_reconstructor("auto", official.folder)[0] == "deca"
    assert choose_reconstructor("landmarks", official.folder)[0] == "landmarks"
    monkeypatch.setattr(module, "ASSETS", official.folder)
    one = Frames(crops.images[3:], crops.clip[3:], crops.offset[3:], crops.names[3:])
    views = thirteen_views(CLIPS, one, config(tmp_path, "auto"))
    assert views.images.shape == (1, 13, 224, 224)
    assert views.notes["reconstructor"] == "deca" and views.notes["views_fallback"] == []
    assert (tmp_path / "views" / "deca" / "tiny" / "s2" / "c" / "3" / "0.jpg").is_file()


@pytest.mark.parametrize("name", ["tiny/../../x", "/tiny/s/c/1", "tiny/s/c", "tiny/s/../1"])
def test_a_name_cannot_leave_the_data_root(crops, tmp_path, name):
    one = Frames(crops.images[:1], crops.clip[:1], crops.offset[:1], [name])
    with pytest.raises(InputError, match="annotation sheet"):
        thirteen_views(CLIPS, one, config(tmp_path))


def test_a_folder_that_cannot_be_written(crops, tmp_path):
    (tmp_path / "views").write_text("a file where a folder should be")
    one = Frames(crops.images[:1], crops.clip[:1], crops.offset[:1], crops.names[:1])
    with pytest.raises(InputError, match="cannot be"):
        thirteen_views(CLIPS, one, config(tmp_path))
