"""Any common picture becomes 8-bit RGB; anything else is one clear line."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor

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
    for white, deep in ((255, RAMP), (4095, RAMP * (4095 / 255)), (65535, RAMP * 257.0)):
        Image.fromarray(np.rint(deep).astype(np.uint16)).save(tmp_path / "deep.png")
        assert np.array_equal(images.read_image(tmp_path / "deep.png")[:, :, 0], RAMP), white


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


@settings(max_examples=25)
@given(share=st.floats(0, 0.9))
def test_truncated_pictures_are_refused(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("cut")
    data = _jpeg(folder)
    (folder / "cut.jpg").write_bytes(data[:int(len(data) * share)])
    with pytest.raises(InputError, match=r"cut\.jpg"):
        images.read_image(folder / "cut.jpg")


@settings(max_examples=50)
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


def test_reading_in_threads_leaves_other_warnings_on(tmp_path):
    images.write_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(images.read_image, [tmp_path / "a.png"] * 200))
    assert warnings.filters == before


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.png: no such file"):
        images.read_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_exif_orientation_is_obeyed(tmp_path, ending, orientation):
    """A bright patch at the top left of the upright picture, wherever the camera stored it."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1),
              8: np.rot90(upright, -1)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a.{ending}", exif=exif)
    found = images.read_image(tmp_path / f"a.{ending}")
    assert found.shape == upright.shape and found[4:12, 4:12].min() > 240
    assert found[20:].max() < 15 and found[:, 20:].max() < 15


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_float_pictures_without_numbers_are_refused(tmp_path, value):
    deep = np.linspace(0, 255, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    assert np.array_equal(images.read_image(tmp_path / "deep.tif")[:, :, 0], deep.round())
    Image.fromarray(deep / 255).save(tmp_path / "share.tif")            # from 0 to 1, as scikit-image writes
    assert np.array_equal(images.read_image(tmp_path / "share.tif")[:, :, 0], deep.round())
    deep[3, 3] = value
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    with pytest.raises(InputError, match=r"deep\.tif: not a readable picture \(NaN or infinity"):
        images.read_image(tmp_path / "deep.tif")


@pytest.mark.parametrize("kind", ["GIF", "EPS", "PPM", "PDF", "TGA", "ICO", "PCX"])
def test_other_formats_are_refused_whatever_they_are_called(tmp_path, kind):
    Image.fromarray(RAMP).convert("RGB").save(tmp_path / "a.jpg", format=kind)
    with pytest.raises(InputError, match=r"a\.jpg: not a readable picture"):
        images.read_image(tmp_path / "a.jpg")


def test_what_is_no_plain_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", tmp_path, "/dev/zero", "a\0b.jpg", "n" * 5000):
        with pytest.raises(InputError, match="not a readable picture"):
            images.read_image(path)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match="no picture"):
        images.find_pictures([tmp_path])
    with pytest.raises(InputError, match="no such file or folder"):
        images.find_pictures(["n" * 5000])


def test_pictures_of_a_folder_are_found_in_order(tmp_path):
    for name in ("b/2.webp", "b/1.PNG", "a.jpeg", "notes.txt", "b/._1.PNG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = images.find_pictures([tmp_path, tmp_path / "notes.txt"])
    names = [str(path.relative_to(tmp_path)) for path in found]
    assert names == ["a.jpeg", "b/1.PNG", "b/2.webp", "notes.txt"]


def test_two_thousand_damaged_pictures_give_a_picture_or_a_line(tmp_path):
    """Bytes changed, cut out, doubled: in files of every format that is read."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (24, 24, 4)).astype(np.uint8)
    whole = []
    for name, mode, options in (
            ("jpg", "RGB", {}), ("jpg", "CMYK", {"progressive": True}), ("png", "RGBA", {}), ("png", "P", {}),
            ("bmp", "RGB", {}), ("tif", "RGB", {}), ("tif", "F", {"compression": "tiff_lzw"}),
            ("tif", "RGB", {"compression": "jpeg"}), ("tif", "1", {"compression": "group4"}),
            ("webp", "RGB", {}), ("webp", "RGBA", {"lossless": True})):
        path = tmp_path / f"whole.{name}"
        Image.fromarray(noise).convert("L" if mode == "F" else mode).convert(mode).save(path, **options)
        whole.append(path.read_bytes())
    path, readable = tmp_path / "damaged.jpg", 0
    for case in range(2000):
        path.write_bytes(damaged(whole[case % len(whole)], rng))
        try:
            image = images.read_image(path)
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            readable += 1
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(str(error)) < 400
    assert 100 < readable < 1900


def damaged(data, rng):
    """`data` with one to four places changed: a byte, a run of one byte, a piece cut out or doubled."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        place, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
        match rng.integers(5):
            case 0 | 1:
                data[place] = rng.integers(256)
            case 2:
                data[place:place + length] = bytes([rng.choice([0, 1, 127, 128, 255])]) * length
            case 3:
                del data[place:place + length * 8]
            case _:
                data[place:place] = data[place:place + length * 8]
        data = data or bytearray(1)
    return bytes(data)
