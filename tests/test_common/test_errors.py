"""An error's message is one line that does nothing to a terminal."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError


@pytest.mark.parametrize(("text", "line"), [
    ("data/é.csv: no such file", "data/é.csv: no such file"), ("a\nb\tc\r", "a b c "),
    ("\x1b[31mred", r"\x1b[31mred"), ("a\u202eb.jpg", r"a\u202eb.jpg"), ("\udcff.jpg", r"\udcff.jpg")])
def test_what_cannot_be_printed_is_escaped(text, line):
    assert str(InputError(text)) == line


@given(st.text(st.characters()))
def test_any_text_is_one_printable_line_that_survives_a_worker(text):
    error = InputError(text)
    assert str(error).isprintable() and str(pickle.loads(pickle.dumps(error))) == str(error)
