"""Batched augmentation against torchvision, one image at a time."""

import pytest
import torch
import torchvision.transforms.functional as TF
from torchvision.transforms import ColorJitter, InterpolationMode

from capsule.inputs import augment

SIZE = 48


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n, channels=3, side=SIZE, seed=1):
    """Smooth random pictures with saturated and plain places, uint8."""
    small = torch.rand(n, channels, 6, 6, generator=generator(seed)) * 1.6 - 0.3
    images = torch.nn.functional.interpolate(small, (side, side), mode="bilinear").clamp(0, 1)
    images[:, :, :5] = 0.5                                               # grey: no hue
    return (255 * images).to(torch.uint8)


def changed_one_by_one(image, draws, i):
    """torchvision's four changes in the drawn order; image float (3, H, W)."""
    functions = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for change in draws.order[i].tolist():
        image = functions[change](image, float(draws.factors[i, change]))
    return image


def trained_one_by_one(image, draws, i, size=SIZE):
    """uint8 (3, H, W) → what train_batch should give."""
    image = TF.resize(image.float() / 255, [size, size], antialias=True)
    image = TF.rotate(image, float(draws.angle[i]), InterpolationMode.BILINEAR)
    if draws.flip[i]:
        image = TF.hflip(image)
    return changed_one_by_one(image, draws, i)


def test_colour_jitter_is_torchvisions():
    images, draws = pictures(40).float() / 255, augment.draw(40, generator())
    kept = images.clone()
    result = augment.jitter_colour(images, draws.factors, draws.order)
    expected = torch.stack([changed_one_by_one(image, draws, i) for i, image in enumerate(images)])
    assert torch.equal(images, kept)
    assert (result - expected).abs().max() < 2e-5
    assert (result - images).abs().amax((1, 2, 3)).min() > 1e-3


NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]


@pytest.mark.parametrize("device", DEVICES)
def test_what_a_compiler_is_given_changes_colours_alike(device):
    images, draws = pictures(40) / 255, augment.draw(40, generator(3))
    expected = augment.jitter_colour(images, draws.factors, draws.order)
    found = augment.jitter_all(images.to(device), draws.factors.to(device), draws.order.to(device))
    assert torch.allclose(found.cpu(), expected, atol=1e-5)


@pytest.mark.parametrize("kind, channels", [("crop", 3), ("views", 13), ("texture", 39)])
@pytest.mark.parametrize("device", DEVICES)
def test_what_is_compiled_changes_pictures_alike(kind, channels, device, monkeypatch):
    side, bound = (224, 2e-4) if device == "cuda" else (SIZE, 1e-5)      # on a GPU: another sampling grid
    images, draws = pictures(12, channels, side), augment.draw(12, generator(3))
    (expected,) = augment.train_batch([images], [kind], draws, side)
    if device == "cpu":    # what the compiler is given, as it stands
        monkeypatch.setattr(augment, "_gains_from_a_compiler", lambda device, size: True)
        monkeypatch.setattr(augment, "_compiled", lambda function: function)
    for part in (slice(0, 12), slice(5, 8)):
        found = augment.train_batch([images[part].to(device)], [kind], draws[part], side)[0]
        assert torch.allclose(found.cpu(), expected[part], atol=bound)


@pytest.mark.parametrize("side", [SIZE, 60, 40])
def test_train_batch_is_torchvisions(side):
    images, draws = pictures(12, side=side), augment.draw(12, generator())
    kept = images.clone()
    (result,) = augment.train_batch([images], ["crop"], draws, SIZE)
    expected = torch.stack([trained_one_by_one(image, draws, i) for i, image in enumerate(images)])
    assert torch.equal(images, kept)
    assert result.dtype == torch.float32 and result.shape == (12, 3, SIZE, SIZE)
    assert (result - expected).abs().max() < 2e-4                        # rounding of the sampling grid


def test_views_are_changed_as_their_crop():
    crops, views = pictures(10), pictures(10, channels=13, seed=2)
    draws = augment.draw(10, generator())
    assert 0 < int(draws.flip.sum()) < 10
    _, result = augment.train_batch([crops, views], ["crop", "views"], draws, SIZE)
    for i in range(10):
        for yaw in range(13):
            source = views[i, 12 - yaw if draws.flip[i] else yaw].expand(3, -1, -1)
            expected = trained_one_by_one(source, draws, i)
            assert (result[i, yaw] - expected).abs().max() < 1e-3    # torchvision's grey weights sum to .9999


def test_paper_evaluation_is_torchvisions():
    images = pictures(6, side=224)
    (result,) = augment.paper_eval_batch([images], ["crop"], generator(5), 224)
    angles = augment.draw(6, generator(5)).angle
    for i, image in enumerate(images):
        larger = TF.resize(image.float() / 255, [234, 240], antialias=True)
        expected = TF.center_crop(TF.rotate(larger, float(angles[i]), InterpolationMode.BILINEAR), [224, 224])
        assert (result[i] - expected).abs().max() < 5e-4


def test_strict_evaluation_resizes_and_no_more():
    same, shrunk = pictures(3), pictures(3, side=90)
    assert torch.equal(augment.strict_batch([same], SIZE)[0], same.float() / 255)
    expected = TF.resize(shrunk.float() / 255, [SIZE, SIZE], antialias=True)
    assert torch.allclose(augment.strict_batch([same, shrunk], SIZE)[1], expected, atol=1e-6)


@pytest.mark.parametrize("side", [28, 40])
def test_paper_evaluation_of_motion_is_the_strict_one(side):
    """Beside a crop, which is turned."""
    crops, motion = pictures(3, side=28), pictures(3, side=side, seed=2)
    strict = augment.strict_batch([crops, motion], 28)
    paper = augment.paper_eval_batch([crops, motion], ["crop", "motion"], generator(5), 28)
    assert torch.equal(paper[1], strict[1]) and not torch.allclose(paper[0], strict[0], atol=0.02)


def test_pictures_are_shrunk_to_the_nearest_level_and_never_enlarged():
    """Means of four pixels: 0.75, 10.25 and 254.75."""
    levels = [[0, 1, 1, 1], [10, 10, 11, 10], [255, 255, 254, 255]]
    images = torch.tensor(levels, dtype=torch.uint8).view(1, 3, 2, 2)
    found = augment.shrunk(images, 1)
    assert found.dtype == torch.uint8 and found.flatten().tolist() == [1, 10, 255]
    assert augment.shrunk(images, 2) is images and augment.shrunk(images, 3) is images


def test_draws_stay_in_their_ranges_and_fill_them():
    draws = augment.draw(4000, generator())
    assert draws.angle.abs().max() <= 8 and draws.angle.min() < -7.9 and draws.angle.max() > 7.9
    low, high = (28 * draws.shift).aminmax(dim=0)       # across and down: one pixel of 28
    assert (low >= -1 - 1e-6).all() and (low < -0.99).all()
    assert (high <= 1 + 1e-6).all() and (high > 0.99).all()
    colours, hue = draws.factors[:, :3], draws.factors[:, 3]
    assert 0.8 <= colours.min() < 0.801 and 1.199 < colours.max() <= 1.2
    assert -0.2 <= hue.min() < -0.199 and 0.199 < hue.max() <= 0.2
    assert 0.45 < draws.flip.float().mean() < 0.55
    orders, counts = draws.order.unique(dim=0, return_counts=True)
    assert len(orders) == 24 and counts.min() > 100 and (orders.sum(1) == 6).all()


def test_ranges_are_those_of_torchvision():
    jitter = ColorJitter(0.2, 0.2, 0.2, 0.2)
    low, high = augment.draw(4000, generator()).factors.aminmax(dim=0)
    for i, span in enumerate((jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)):
        assert (low[i].item(), high[i].item()) == pytest.approx(span, abs=1e-3)


def test_same_generator_same_draws_and_a_part_of_them():
    first, again = augment.draw(9, generator()), augment.draw(9, generator())
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in vars(first))
    images = pictures(9)
    whole = augment.train_batch([images], ["crop"], first, SIZE)[0]
    part = augment.train_batch([images[3:5]], ["crop"], first[3:5], SIZE)[0]
    assert len(first[3:5].angle) == 2 and torch.allclose(whole[3:5], part, atol=1e-6)


def test_texture_views_are_changed_as_their_crop():
    crops, views, draws = pictures(8), pictures(8, channels=39, seed=2), augment.draw(8, generator())
    result = augment.train_batch([crops, views], ["crop", "texture"], draws, SIZE)[1]
    for i in range(8):
        for yaw in (0, 6, 12):
            at = 3 * (12 - yaw if draws.flip[i] else yaw)
            expected = trained_one_by_one(views[i, at:at + 3], draws, i)
            assert (result[i, 3 * yaw:3 * yaw + 3] - expected).abs().max() < 2e-4


def test_mirrored_motion_has_u_negated_and_nothing_moves_outside():
    """u = +20 levels everywhere: mirrored it is −20; v and strain stay; what is shifted in does not move."""
    images = torch.tensor([148, 100, 60], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 28, 28)
    zeros = torch.zeros(2)
    draws = augment.Draws(zeros, torch.tensor([[0.0, 0.0], [2 / 28, 0.0]]), torch.tensor([True, False]),
                          torch.ones(2, 4), torch.zeros(2, 4, dtype=torch.int64))
    mirrored, shifted = 255 * augment.train_batch([images], ["motion"], draws, 28)[0]
    assert torch.allclose(mirrored, torch.tensor([108.0, 100.0, 60.0]).view(3, 1, 1).expand(3, 28, 28),
                          atol=1e-3)
    assert shifted[:, 0, 0].tolist() == pytest.approx([148, 100, 60])
    assert shifted[:, 0, -1].tolist() == pytest.approx([128, 128, 0], abs=1e-3)


def test_motion_is_shifted_across_and_down():
    """u = 100 + column, v = 100 + row: shifted by 1 pixel across and 2 down, places show those beyond."""
    images = torch.zeros(1, 3, 28, 28, dtype=torch.uint8)
    images[:, 0] = torch.arange(100, 128)
    images[:, 1] = torch.arange(100, 128).view(28, 1)
    draws = augment.Draws(torch.zeros(1), torch.tensor([[1 / 28, 2 / 28]]), torch.tensor([False]),
                          torch.ones(1, 4), torch.zeros(1, 4, dtype=torch.int64))
    (result,) = augment.train_batch([images], ["motion"], draws, 28)
    across, down, _ = (255 * result[0]).unbind()
    assert across[0].tolist() == pytest.approx([*range(101, 128), 128], abs=1e-2)
    assert down[:, 0].tolist() == pytest.approx([*range(102, 128), 128, 128], abs=1e-2)


def test_mirrored_motion_views_change_places():
    images = torch.full((1, 39, 28, 28), 128, dtype=torch.uint8)
    images[:, 2::3] = torch.arange(0, 130, 10, dtype=torch.uint8).view(13, 1, 1)    # strain tells the yaw
    images[:, ::3], images[:, 1::3] = 128 + 20, 128 + 10                            # u, v: of all yaws
    draws = augment.Draws(torch.zeros(1), torch.zeros(1, 2), torch.tensor([True]), torch.ones(1, 4),
                          torch.zeros(1, 4, dtype=torch.int64))
    (result,) = augment.train_batch([images], ["motion"], draws, 28)
    assert (255 * result[0, 2::3, 5, 5]).round().tolist() == list(range(120, -10, -10))
    assert set((255 * result[0, ::3, 5, 5]).round().tolist()) == {128 - 20}
    assert set((255 * result[0, 1::3, 5, 5]).round().tolist()) == {128 + 10}
