"""A program ends with one line for a person, whatever a name holds."""

import os
import sys

import pytest
import torch

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


def gpu_is_full():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nOf the allocated memory ...")


@pytest.mark.parametrize("main", [lambda: bytearray(2**62), lambda: torch.empty(10**14), gpu_is_full])
def test_a_full_memory_is_one_line(main, capsys):
    with pytest.raises(SystemExit) as end:
        run_main(main)
    said = capsys.readouterr().err
    assert end.value.code == 2 and "the memory is full" in said and said.count("\n") == 1


def test_an_error_of_ours_is_not_hidden():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run_main(lambda: torch.ones(2) @ torch.ones(3, 4))
