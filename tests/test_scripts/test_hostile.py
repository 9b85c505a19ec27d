"""Options, sheets, lists, results and caches as chance or malice makes them: used, or refused in one line.

`CASES=5000 pytest tests/test_scripts/test_hostile.py` takes longer and tries more; a failure names its case.
"""

import contextlib
import copy
import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest

from capsule.config import parse
from capsule.data.protocol import COLUMNS, load_clips
from capsule.fusion import fuse
from capsule.results import class_log, prediction_log, read_runs, result_log
from capsule.tables import render, report
from common.cache import read_entry, write_entry
from common.errors import InputError
from common.names import is_plain_name
from tests.fake_runs import write_run
from tests.make_database import make_database
from tests.test_common.test_images import damaged

CASES = int(os.environ.get("CASES", "60"))
CHARACTERS = "aZ09 ._+-()[]/\\:*?\"'<>|$%{}~^\n\r\t\0\x1b\u202eé中😀\udc80²=,;#@!`"
NUMBERS = ["-1", "0", "2", "inf", "-inf", "nan", "1e308", "1e309", "-0.0", "0" * 30 + "3", "9" * 30,
           "9" * 5000, "1_000", "²", "٣", "0x10", "1e-320", " 5 ", "5.0", ""]
VALUES = [None, True, 0, -1, 1.5, 1e308, 10**30, 2**64, "", "x", "..", "a/b", "$x_$", "é" * 300, "\ud800",
          "\x1b[31m", "a\nb", [], {}, [[]], [None], {"a": None}, [[[[1]]]], float("nan")]
FLAGS = ("dataset", "classes", "protocol", "subset", "frames", "model", "epochs", "batch-size",
         "learning-rate", "lr-decay", "seed", "weights", "precision", "folds", "device",
         "threads", "workers", "experiment", "data-root")


def cases(function):
    """Call `function(rng)` CASES times. Anything but InputError is a failure, and so is a second line."""
    used = 0
    for case in range(CASES):
        try:
            function(np.random.default_rng(case))
            used += 1
        except InputError as error:
            assert str(error).isprintable(), f"case {case}: {error!r}"
        except Exception as error:
            raise AssertionError(f"case {case}") from error
    return used


def one_of(rng, choices):
    return choices[rng.integers(len(choices))]


def word(rng):
    text = "".join(one_of(rng, CHARACTERS) for _ in range(rng.integers(12)))
    return one_of(rng, NUMBERS) if rng.random() < 0.5 else text * int(rng.choice([1, 1, 1, 40]))


def changed(value, rng):
    """A JSON value with another at a random place: taken out, doubled, renamed or replaced."""
    value, place = copy.deepcopy(value), None
    node = value
    while isinstance(node, dict | list) and node and rng.random() < 0.8:
        place = node, one_of(rng, list(node) if isinstance(node, dict) else range(len(node)))
        node = place[0][place[1]]
    new = one_of(rng, VALUES)
    if place is None:
        return new
    node, key = place
    how = rng.integers(4)
    if how == 0:
        del node[key]
    elif how == 1 and isinstance(node, list):
        node.append(node[key])
    elif how == 2 and isinstance(node, dict):
        node[str(new)[:20]] = node.pop(key)
    else:
        node[key] = new
    return value


def spoilt(data, rng):
    """A JSON file's bytes, its values changed or its bytes damaged."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    value = json.loads(data)
    for _ in range(rng.integers(1, 4)):
        value = changed(value, rng)
    return json.dumps(value).encode()


@contextlib.contextmanager
def in_place_of(path, data):
    """The file at `path` holds `data` for a while."""
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(whole)


def test_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def attack(rng):
        argv = [f"--{flag}={word(rng)}" for flag in rng.choice(FLAGS, rng.integers(1, 4), replace=False)]
        try:
            options = parse("doc", argv, ("resnet", "vgg"), script="train_x", dataset="casme",
                            protocol="dsnca", model="resnet", data_root=".")
        except SystemExit as end:
            assert end.code == 2 and capsys.readouterr().err.count("\n") == 1
            raise InputError("refused") from None
        assert is_plain_name(options.experiment_name)

    assert cases(attack) < CASES and os.listdir(tmp_path) == []


@pytest.mark.parametrize("data", ["casme", "smic", "samm"])
def test_sheets(tmp_path, data, capsys):
    make_database(tmp_path, data, subjects=2, frames=3, size=8)
    sheets = [path for path in sorted(tmp_path.rglob("*")) if path.suffix in (".xlsx", ".csv")]

    def attack(rng):
        path = one_of(rng, sheets)
        whole = path.read_bytes()
        if path.suffix == ".xlsx" and rng.random() < 0.7:        # a file inside of it
            with zipfile.ZipFile(path) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            name = one_of(rng, list(members))
            members[name] = damaged(members[name], rng)
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
            spoilt_sheet = stream.getvalue()
        else:
            spoilt_sheet = damaged(whole, rng)
        with in_place_of(path, spoilt_sheet):
            load_clips(data, tmp_path, skip_missing=bool(rng.integers(2)))

    assert cases(attack) < CASES


def test_lists_of_clips(tmp_path, capsys):
    make_database(tmp_path, "casme", subjects=2, frames=3, size=8)
    path = tmp_path / "list.csv"

    def attack(rng):
        rows = [COLUMNS[:7], ["casme", "sub01", "EP01_01f", 0, 11, 12, 13],
                ["casme", "sub02", "EP01_01f", 1, 11, 12, 13]]
        rows = [[word(rng)[:60] if rng.random() < 0.05 else str(cell) for cell in row] for row in rows]
        data = "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass")
        path.write_bytes(damaged(data, rng) if rng.random() < 0.3 else data)
        load_clips("casme", tmp_path, protocol=str(path), skip_missing=bool(rng.integers(2)))

    assert cases(attack) < CASES


def test_results(tmp_path):
    for seed, name in enumerate("ab"):
        write_run(tmp_path, name, seed=seed, epochs=2)
    files = sorted(tmp_path.rglob("*.json"))
    reason = json.dumps({"data_sub": "synthetic_s00", "fold_seed": 1, "reason": "x"}).encode()

    def attack(rng):
        with contextlib.ExitStack() as stack:
            for path in {one_of(rng, files) for _ in range(rng.integers(1, 4))}:
                stack.enter_context(in_place_of(path, spoilt(path.read_bytes(), rng)))
            if rng.random() < 0.1:                              # a fold that failed
                path = tmp_path / "a" / "failed" / "synthetic_s00.json"
                path.parent.mkdir()
                stack.callback(shutil.rmtree, path.parent)
                path.write_bytes(spoilt(reason, rng))
            runs, broken = read_runs(tmp_path)
            for log in (result_log, class_log, prediction_log):
                log(runs).to_csv(index=False)
            printed = render(report(runs, broken.values()), one_of(rng, ["text", "markdown", "latex"]))
            assert printed.replace("\n", "").isprintable()
            fuse(runs)

    cases(attack)


def test_cache_entries(tmp_path):
    grey, colour = np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)
    write_entry(tmp_path, "k", {"1.png": grey, "s/2.jpg": colour}, {})
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]

    def attack(rng):
        path = one_of(rng, files)
        whole = path.read_bytes()
        data = spoilt(whole, rng) if path.name == "key.json" else damaged(whole, rng)
        with in_place_of(path, data):
            assert read_entry(tmp_path, "k") is None or data == whole or path.name == "key.json"

    assert cases(attack) == CASES
