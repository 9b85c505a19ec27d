"""Files are written whole or not at all."""

import errno
import json
import os

import pytest

from common import files
from common.errors import InputError


def test_a_block_that_fails_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"value": 1})
    with pytest.raises(RuntimeError), files.whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"value": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_same_value_same_bytes(tmp_path):
    files.write_json(tmp_path / "a", {"x": 1, "y": [2]})
    files.write_json(tmp_path / "b", {"y": [2], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_folders_are_made_and_the_mode_is_the_users(tmp_path):
    files.write_text(tmp_path / "new" / "folder" / "note.txt", "grüße")
    path = tmp_path / "new" / "folder" / "note.txt"
    assert path.read_text(encoding="utf-8") == "grüße"
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_full_disk_gives_one_line_and_harms_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(InputError, match=r"a\.txt.*No space left.*free some disk space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        files.write_text(tmp_path / "file" / "a.txt", "x")


def test_json_that_is_none_is_named(tmp_path):
    (tmp_path / "broken.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"broken\.json"):
        files.read_json(tmp_path / "broken.json")


@pytest.mark.parametrize("text", ["[]", "null", "5", '"a"', "[" * 100_000, "1" * 5000, "{}{}"])
def test_json_of_another_type_is_named(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(InputError, match=r"other\.json"):
        files.read_json(tmp_path / "other.json")
    if text == "[]":
        assert files.read_json(tmp_path / "other.json", list) == []


def test_what_is_no_file_is_named_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path, tmp_path / "none.json"):
        with pytest.raises(InputError, match="not a readable JSON file"):
            files.read_json(path)


def test_nan_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", float("nan"))
    assert not (tmp_path / "a.json").exists()
