"""A program ends with one line for a person, whatever a name holds."""

import os
import sys

import pytest

from common.console import run_main


def test_a_name_that_is_not_utf_8_is_one_line(capsys):
    name = os.fsdecode(b"results of \xff")
    with pytest.raises(SystemExit) as end:
        run_main(name.encode)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "results of \\udcff: a name that is not UTF-8; rename" in said and said.count("\n") == 1


def test_closed_outputs_are_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit) as end:
        run_main(lambda: sys.stdout.isatty() or sys.stderr.write("a line") * 0)     # as tqdm does
    assert end.value.code == 0


def test_a_full_memory_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        run_main(lambda: bytearray(2**62))
    said = capsys.readouterr().err
    assert end.value.code == 2 and "the memory is full" in said and said.count("\n") == 1
