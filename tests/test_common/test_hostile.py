"""Whatever lies in a name, a JSON file, a picture or an official file: a value, or one line that names it."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.files import read_json, write_json
from common.images import read_image, write_image
from common.names import is_plain_name, plain_name
from common.tensors import load_tensors
from deca.assets import FILES

few = settings(max_examples=150)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-2**53, 2**53) | words
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12)


def value_or_line(read, path):
    """What `read(path)` gives, or None when it raises one line that names the file; anything else fails."""
    try:
        return read(path)
    except InputError as error:
        message = str(error)
        assert str(path) in message and "\n" not in message and len(message) < len(str(path)) + 400
        return None


# --- names ----------------------------------------------------------------------------------------

@few
@given(text=st.text(max_size=130) | st.text("ab._- +()[]/\\:$\n\0~\u202e", max_size=6))
def test_a_plain_name_is_one_file_in_its_folder(tmp_path, text):
    if not is_plain_name(text):
        with pytest.raises(InputError, match="is not a plain name") as error:
            plain_name(text, "--experiment")
        assert "\n" not in str(error.value)
        return
    assert plain_name(text, "--experiment") == text
    path = tmp_path / text
    assert path.parent == tmp_path and path.resolve().parent == tmp_path.resolve() and path.name == text
    if len(text.encode()) <= 255:
        path.write_text("")
        assert text in [found.name for found in tmp_path.iterdir()]
        path.unlink()


@pytest.mark.parametrize("value", [None, 5, b"a", ["a"], "", ".", "a/b", "a\\b", "a\n", " a", "-" * 121])
def test_no_plain_names(value):
    assert not is_plain_name(value)


# --- JSON -----------------------------------------------------------------------------------------

@few
@given(value=st.dictionaries(words, plain_json, max_size=4))
def test_json_that_was_written_is_read(tmp_path, value):
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@few
@given(value=plain_json, place=st.integers(0, 400), inserted=st.binary(max_size=4), cut=st.booleans())
def test_damaged_json_is_an_object_or_a_line(tmp_path, value, place, inserted, cut):
    data = json.dumps(value).encode()
    place %= len(data) + 1
    rest = b"" if cut else data[place + len(inserted):]
    (tmp_path / "a.json").write_bytes(data[:place] + inserted + rest)
    found = value_or_line(read_json, tmp_path / "a.json")
    assert found is None or type(found) is dict


# --- pictures -------------------------------------------------------------------------------------

MAGIC = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"BM", b"II*\0\x08\0\0\0", b"MM\0*",
         b"RIFF\x20\0\0\0WEBPVP8X", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"]


@few
@given(start=st.sampled_from(MAGIC), rest=st.binary(max_size=200))
def test_any_bytes_are_a_picture_or_a_line(tmp_path, start, rest):
    (tmp_path / "a.jpg").write_bytes(start + rest)
    found = value_or_line(read_image, tmp_path / "a.jpg")
    assert found is None or (found.dtype == np.uint8 and found.shape[2] == 3)


@few
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 9),
       ending=st.sampled_from(["png", "bmp", "tif"]))
def test_pictures_that_were_written_are_read(tmp_path, height, width, seed, ending):
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    write_image(tmp_path / f"a.{ending}", picture)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{ending}"), picture)


# --- official files and weights -------------------------------------------------------------------

STARTS = [b"", b"\x80\x02}", b"\x80\x04", b"(dVv_template\n", b"\x93NUMPY\x01\0", b"PK\x03\x04",
          b"v 1 2 3\nf 1/1 ", pickle.dumps({"full_lmk_faces_idx": np.zeros((1, 68))}, 2),
          b"cnumpy\nndarray\n(tR", b"cposix\nmkdir\n"]


@few
@given(name=st.sampled_from(sorted(FILES)), start=st.sampled_from(STARTS), rest=st.binary(max_size=60))
def test_any_bytes_are_no_official_file(tmp_path, name, start, rest):
    (tmp_path / name).write_bytes(start + rest)
    assert value_or_line(FILES[name][1], tmp_path / name) is None


@few
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=60))
def test_any_bytes_are_no_weights(tmp_path, start, rest):
    (tmp_path / "a.pt").write_bytes(start + rest)
    assert value_or_line(load_tensors, Path(tmp_path / "a.pt")) is None
