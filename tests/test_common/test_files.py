"""Files are written whole or not at all."""

import errno
import json
import os
import subprocess
import sys
import time

import pandas as pd
import pytest

from common import files
from common.cache import file_digest
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


def test_names_of_another_encoding_are_written_as_escapes(tmp_path):
    name = os.fsdecode(b"RAW\xff")
    files.write_csv(tmp_path / "a.csv", pd.DataFrame({"path": [f"{name}/img1.jpg"]}))
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "path\nRAW\\udcff/img1.jpg\n"


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


def test_what_is_in_the_way_of_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    for place in ("file", "link"):
        with pytest.raises(InputError, match=rf"{place}/a/b: cannot be written: \S*/{place} is no folder"):
            files.write_text(tmp_path / place / "a" / "b", "")


def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InputError, match="a folder, pipe or device, no file"):
            files.write_text(place, "x")
    assert (tmp_path / "pipe").is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_json_that_is_none_is_named(tmp_path):
    (tmp_path / "broken.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"broken\.json"):
        files.read_json(tmp_path / "broken.json")


@pytest.mark.parametrize("text", ["[]", "null", "5", '"a"', "[" * 100_000, "1" * 5000, "{}{}",
                                  '{"a": NaN}', '{"a": -Infinity}'])
def test_json_of_another_type_is_named(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(InputError, match=r"other\.json"):
        files.read_json(tmp_path / "other.json")


def test_what_is_no_file_is_named_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path, tmp_path / "none.json"):
        with pytest.raises(InputError, match="not a readable JSON file"):
            files.read_json(path)


def test_nan_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", float("nan"))
    assert not (tmp_path / "a.json").exists()


def leftover(folder, pid, host=None):
    """What a killed writer leaves."""
    path = folder / f".a.json.{files._HOST if host is None else host}-{pid}.x1y2z3.part.json"
    path.write_text("half")
    return path


def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_leftovers_of_the_dead_are_swept_and_of_the_living_stay(tmp_path):
    (tmp_path / "folds").mkdir()
    dead = [leftover(tmp_path, dead_pid()), leftover(tmp_path / "folds", dead_pid())]
    living = [leftover(tmp_path, os.getpid()), leftover(tmp_path, 1)]
    living.append(leftover(tmp_path, dead_pid(), "elsewhere"))
    others = [tmp_path / "a.json", tmp_path / ".a.json", tmp_path / ".part"]
    for path in others:
        path.write_text("{}")
    files.sweep(tmp_path)
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in living + others)


def test_a_leftover_of_another_machine_is_swept_after_a_day(tmp_path):
    path = leftover(tmp_path, 5, "elsewhere")
    os.utime(path, (0, time.time() - files.DAY - 60))
    files.sweep(tmp_path)
    assert not path.exists()


def test_what_a_killed_writer_really_leaves_is_swept(tmp_path):
    code = ("import os; from common.files import whole_file\n"
            f"with whole_file({str(tmp_path / 'a long name with spaces.json')!r}) as path:\n"
            "    path.write_text('half')\n    os.kill(os.getpid(), 9)")
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(os.listdir(tmp_path)) == 1
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == []


def test_sweeping_does_not_follow_links(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    path = leftover(outside, dead_pid())
    (inside / "link").symlink_to(outside)
    (inside / path.name).symlink_to(path)
    files.sweep(inside)
    assert path.exists()
    files.sweep(tmp_path / "nowhere")


def test_a_file_larger_than_the_memory_is_named(tmp_path):
    with open(tmp_path / "img1.jpg", "wb") as file:
        file.truncate(2**42)        # takes no room on the disk
    with pytest.raises(InputError, match=r"img1\.jpg: cannot be read \(far too large\)"):
        file_digest(tmp_path / "img1.jpg")
