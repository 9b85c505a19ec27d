"""Any common picture becomes 8-bit RGB; anything else is one clear line."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common import images
from common.errors import InputError

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA", "LA", "1", "CMYK"])
def test_modes(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(RAMP).convert(mode).save(path)
    image = images.read_image(path)
    assert image.shape == (8, 8, 3) and image.dtype == np.uint8
    assert image[7, 7].min() > image[0, 0].max()


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(images.read_image(tmp_path / "deep.png")[:, :, 0], RAMP)


def test_transparency_is_laid_on_black(tmp_path):
    rgba = np.full((4, 4, 4), 200, np.uint8)
    rgba[:, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert images.read_image(tmp_path / "a.png").max() == 0


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_written_pictures_read_back(tmp_path, ending):
    picture = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2)
    images.write_image(tmp_path / f"a.{ending}", picture)
    assert np.array_equal(images.read_image(tmp_path / f"a.{ending}"), picture)


def _jpeg(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    images.write_image(tmp_path / "whole.jpg", noise)
    return (tmp_path / "whole.jpg").read_bytes()


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 0.9))
def test_truncated_pictures_are_refused(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("cut")
    data = _jpeg(folder)
    (folder / "cut.jpg").write_bytes(data[:int(len(data) * share)])
    with pytest.raises(InputError, match=r"cut\.jpg"):
        images.read_image(folder / "cut.jpg")


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_give_a_picture_or_a_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "a.jpg"
    path.write_bytes(data)
    try:
        assert images.read_image(path).dtype == np.uint8
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 63)
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="8x8 pixels is too large"):
        images.read_image(tmp_path / "a.png")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.png: no such file"):
        images.read_image(tmp_path / "nowhere.png")
