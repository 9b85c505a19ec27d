"""Ready motion pictures, STSTNet and the SVM row."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from capsule.data.protocol import Clips
from capsule.inputs.crops import FrameImages
from capsule.inputs.motion import normalised, normalised_levels, read_motion, ready_motion
from capsule.modules import STSTNet
from capsule.modules import network as registered
from capsule.modules.svm import SVM
from common.errors import InputError
from common.images import write_image

ROWS = [("casme", "sub01", "EP02_01f", 1, 59), ("smic", "2", "s2_ne_01", 0, 7),
        ("samm", "006", "006_1_2", 2, 30)]


@pytest.fixture
def clips():
    table = pd.DataFrame(ROWS, columns=["data", "subject", "clip", "label", "apex_frame"])
    table["data_sub"] = table["data"] + "_" + table["subject"]
    return Clips(table, "composite", ("negative", "positive", "surprise"), Path("data"))


def write(folder, *names, size=28, seed=0):
    """A motion picture by each name; returns the last one, uint8 (H, W, 3)."""
    for number, name in enumerate(names):
        image = np.random.default_rng(seed + number).integers(0, 256, (size, size, 3), dtype=np.uint8)
        folder.mkdir(exist_ok=True)
        write_image(folder / f"{name}.png", image)
    return image


@pytest.mark.parametrize("names", [("sub01_EP02_01f ", "s02_s02_ne_01 ", "006_006_1_2 "),
                                   ("SUB1-ep02_01F", "2_s2_ne_1", "6_006-01-02")])
def test_pictures_are_found_by_name_however_spelt(clips, tmp_path, names):
    last = write(tmp_path, *names)
    kept, motion = ready_motion(clips, tmp_path)
    assert kept.keys == clips.keys and motion.kind == "motion" and motion.said == ()
    assert motion.images.shape == (3, 3, 28, 28) and motion.images.dtype == torch.uint8
    assert (motion.images[2].permute(1, 2, 0).numpy() == last).all()       # red, green, blue: u, v, strain
    assert motion.names[2] == "samm/006/006_1_2/30"
    assert list(motion.clip) == [0, 1, 2] and motion.is_apex.all()


def test_neighbouring_numbers_are_not_confused(clips, tmp_path):
    write(tmp_path, "sub01_EP02_01f", "s02_s02_ne_01", "006_006_12")
    with pytest.raises(InputError, match=r"1 of 3 clips: samm/006/006_1_2; .* --skip-missing"):
        ready_motion(clips, tmp_path)


def test_missing_and_extra_pictures_are_said(clips, tmp_path):
    write(tmp_path, "s02_s02_ne_01", "006_006_1_2", "s02_s02_ne_09")
    kept, motion = ready_motion(clips, tmp_path, skip_missing=True)
    assert kept.keys == clips.keys[1:] and len(clips.table) == 3 and list(motion.clip) == [0, 1]
    assert [(note["count"], note["clips"]) for note in motion.said] == [
        (1, ["casme/sub01/EP02_01f"]), (1, ["s02_s02_ne_09.png"])]


def test_a_name_that_fits_two_clips_is_an_error(clips, tmp_path):
    write(tmp_path, "sub01_EP02_01f")
    table = pd.concat([clips.table, clips.table.iloc[:1].assign(data="smic", subject="1")], ignore_index=True)
    with pytest.raises(InputError, match="fits casme/sub01/EP02_01f and smic/1/EP02_01f"):
        ready_motion(replace(clips, table=table), tmp_path, skip_missing=True)


def test_rule_follows_the_pixels(clips, tmp_path):
    names = "sub01_EP02_01f", "s02_s02_ne_01", "006_006_1_2"
    rules = []
    for seed in (0, 0, 1):
        write(tmp_path, *names, seed=seed)
        rules.append(ready_motion(clips, tmp_path)[1].rule)
    assert rules[0] == rules[1] != rules[2]


def test_unusable_pictures_are_named(clips, tmp_path):
    names = "sub01_EP02_01f", "s02_s02_ne_01", "006_006_1_2"
    write(tmp_path, *names)
    write(tmp_path, names[1], size=20)
    with pytest.raises(InputError, match=r"s02_s02_ne_01.png: 20x20 pixels"):
        ready_motion(clips, tmp_path)
    write_image(tmp_path / f"{names[0]}.png", np.random.default_rng(0).integers(0, 9, (28, 40, 3), np.uint8))
    with pytest.raises(InputError, match=r"sub01_EP02_01f.png: 40x28 pixels; motion pictures are square"):
        ready_motion(clips, tmp_path)
    with pytest.raises(InputError, match="motion pictures are square"):      # as predict.py reads it
        read_motion(tmp_path / f"{names[0]}.png")
    write(tmp_path, *names)
    write_image(tmp_path / f"{names[1]}.png", np.arange(784, dtype=np.uint8).reshape(28, 28))
    with pytest.raises(InputError, match=r"s02_s02_ne_01.png: a grey picture"):
        ready_motion(clips, tmp_path)
    (tmp_path / f"{names[1]}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"s02_s02_ne_01.png: not a readable picture"):
        ready_motion(clips, tmp_path)
    (tmp_path / f"{names[1]}.png").unlink()
    write(tmp_path, "2_s2_ne_1", "s2_s2_ne_1")
    with pytest.raises(InputError, match="of the same clip"):
        ready_motion(clips, tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        ready_motion(clips, tmp_path / "none")


def test_ststnet_shapes_and_names():
    network = STSTNet(3)
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters() if "weight" in name}
    assert shapes == {"conv1.weight": (3, 3, 3, 3), "conv2.weight": (5, 3, 3, 3),
                      "conv3.weight": (8, 3, 3, 3), "bn1.weight": (3,),
                      "bn2.weight": (5,), "bn3.weight": (8,), "fc.weight": (3, 400)}
    outputs = network(255 * torch.rand(2, 3, 28, 28))
    assert outputs.shape == (2, 3)
    outputs[0, 0].backward()
    assert all(value.grad.abs().sum() > 0 for name, value in network.named_parameters() if "conv" in name)


def test_ststnet_by_hand():
    """One filter that passes strain, norms that do nothing: the first cell of the average is read off."""
    network = STSTNet(2).eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.fill_(1.0 if name.startswith("bn") and "weight" in name else 0.0)
        network.conv1.weight[0, 0, 1, 1] = 1          # channel 0 is strain
        network.fc.weight[0, 0] = 1
    x = torch.zeros(1, 3, 28, 28)
    x[0, 0, 1, 1], x[0, 0, 3, 4] = 51, 102           # with the border of 1: rows 2, 4, columns 2, 5
    x[0, 1], x[0, 2] = 255, 255                       # u and v reach no filter
    # Pool cells cover -1..1, 2..4, 5..7: cells (1, 1) and (1, 2), of which the average takes the first.
    scale = (1 + 1e-5) ** -0.5
    expected = 51 * scale / 4
    outputs = network(x)[0].detach()
    assert float(outputs[0] - outputs[1]) == pytest.approx(expected, rel=1e-5)
    network.bn1.running_mean[0] = 20                  # the norm comes after the ReLU: −20 in the 3 cells of 0
    outputs = network(x)[0].detach()
    assert float(outputs[0] - outputs[1]) == pytest.approx((51 - 20 - 3 * 20) * scale / 4, rel=1e-5)


@pytest.mark.parametrize("name, after", [("STSTNet", "average"), ("MotionCapsuleNet", "primarycaps")])
def test_the_small_networks_pass_nothing_negative_on_and_drop_half_of_it_in_training(name, after):
    torch.manual_seed(0)
    net = registered(name, 3)
    model, seen = net.make((3,))[0], []
    getattr(model, after).register_forward_pre_hook(lambda part, given: seen.append(given[0].detach()))
    x = net.prepared([torch.rand(8, 3, 28, 28)])
    model.eval()(*x)
    model.train()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eval()                               # so that dropout alone is other than before
    model(*x)
    whole, dropped = seen
    assert (whole >= 0).all() and (whole > 0).sum() > 3000
    left = dropped[whole > 0] / whole[whole > 0]      # 0 or, so that the mean stays, 2
    assert ((left == 0) | (left - 2).abs().lt(1e-4)).all() and 0.45 < (left == 0).float().mean() < 0.55


def separable(n, classes=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    images = random.integers(100, 140, (n, 3, 28, 28))
    for image, label in zip(images, labels, strict=True):
        image[:, 9 * label:9 * label + 9] += 60        # class c moves in its own rows
    return images.astype(np.uint8), labels


def test_svm_learns_and_repeats_itself():
    images, labels = separable(60)
    svm = SVM(3).fit(images[:45], labels[:45])
    scores = svm.scores(images[45:])
    assert scores.dtype == np.float32 and scores.shape == (15, 3) and (scores.argmax(1) == labels[45:]).all()
    assert np.allclose(scores.sum(1), 1) and (scores >= 0).all()
    assert (scores == SVM(3).fit(images[:45], labels[:45]).scores(images[45:])).all()


def test_svm_without_clips_of_a_class():
    images, labels = separable(40, classes=2)
    scores = SVM(3).fit(images[:30], 2 * labels[:30]).scores(images[30:])
    assert (scores.argmax(1) == 2 * labels[30:]).all() and not scores[:, 1].any()


@pytest.mark.parametrize("side", [28, 24, 20, 14])
def test_the_svm_takes_a_mirrored_picture_for_the_same(side):
    images, labels = separable(30)
    images = images.astype(np.uint8)[..., -side:, -side:]
    with pytest.raises(InputError, match="motion pictures of 13 pixels"):
        SVM(3).fit(images[:, :, :13, :13], labels)
    svm = SVM(3).fit(images, labels)
    mirrored = images[..., ::-1].copy()
    mirrored[:, 0] = (256 - mirrored[:, 0].astype(int)).astype(np.uint8)    # u changes its sign
    assert np.allclose(svm.scores(images), svm.scores(mirrored), atol=1e-5)


def test_ststnet_gets_what_its_published_weights_expect():
    """Red u, green v, blue strain in [0, 1] → strain, v, u from 0 to 255; its scores are probabilities."""
    net = registered("STSTNet", 3)
    (prepared,) = net.prepared([torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1)])
    assert prepared.flatten().tolist() == pytest.approx([153, 102, 51])
    assert net.side == 28 and net.scores(torch.zeros(1, 3)).tolist() == [pytest.approx([1 / 3] * 3)]


def test_normalised_pictures_have_no_common_motion_and_one_spread(tmp_path):
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.normal(150, 10, (4, 3, 28, 28)).clip(0, 255).astype(np.uint8))
    frames = FrameImages(None, images, np.arange(4), np.ones(4, bool), list("abcd"), "motion", {})
    found = normalised(frames)
    assert found.images.dtype == torch.uint8 and torch.equal(frames.images,
                                                             images) and found.rule != frames.rule
    assert np.abs(np.median(found.images[:, :2].flatten(2), axis=2) - 128).max() <= 1
    assert found.images[:, :2].float().std((2, 3)).sub(32).abs().max() < 2


def test_each_yaw_is_normalised_on_its_own_and_strain_keeps_its_zero():
    """Half of the pixels have one value, half another, a standard deviation to either side of their mean."""
    halves = [[(108, 128), (148, 228), (20, 60)],     # yaw 0: u, v, strain deviate by 10, 40, 20
              [(50, 150), (120, 130), (100, 200)]]    # yaw 1: by 50, 5, 50
    images = torch.tensor(halves, dtype=torch.uint8).view(1, 6, 1, 2).repeat(1, 1, 2, 1)
    found = normalised_levels(images)
    assert torch.equal(found[:, :, 0], found[:, :, 1])
    assert found[0, :, 0].tolist() == [[96, 160], [96, 160], [32, 96],          # u, v: 128 ± 32
                                       [96, 160], [96, 160], [64, 128]]         # strain: times 32 / 50


def test_the_small_capsule_network_takes_the_fields_pictures():
    net = registered("MotionCapsuleNet", 3)
    torch.manual_seed(0)
    model, weights = net.make((3,))
    lengths = model(*net.prepared([torch.rand(4, 3, 28, 28)]))
    assert weights == "none" and net.side == 28 and lengths.shape == (4, 3)
    assert ((lengths >= 0) & (lengths < 1)).all()
    assert model.digitcaps.weight.shape == (3, 8 * 4 * 4, 16, 8)
    net.loss(lengths, torch.tensor([0, 1, 2, 0])).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_picture_is_normalised_alike_however_it_lies_in_memory():
    """A cache's pictures lie colour by colour in each pixel; predict.py's lie plane by plane."""
    draws = np.random.default_rng(1)
    levels = np.clip(draws.normal(128, draws.uniform(2, 30, (20, 3, 1, 1)), (20, 3, 224, 224)), 0, 255)
    images = torch.from_numpy(levels.astype(np.uint8))
    wanted = torch.cat([normalised_levels(one[None]) for one in images])
    assert torch.equal(normalised_levels(images.contiguous(memory_format=torch.channels_last)), wanted)
