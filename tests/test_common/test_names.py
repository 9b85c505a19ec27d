"""The one rule for names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.names import is_plain_name, plain_name


@pytest.mark.parametrize("name", ["EP02_01f", "006_1_2", "a+b (c) [d] 1.5-x", "тест", "x" * 120])
def test_plain_names(name):
    assert is_plain_name(name) and plain_name(name, "--experiment") == name


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a\nb", " a", "a ", "x" * 121,
                                  "\udcff", "a\x00", "a:b", "$x$", "a%", None, 5, ["a"], "a\u2028b"])
def test_other_names_are_one_line(name):
    with pytest.raises(InputError, match=r"--experiment: .* is not a plain name") as caught:
        plain_name(name, "--experiment")
    assert "\n" not in str(caught.value)


@given(st.text())
def test_a_plain_name_is_one_file_in_its_folder(tmp_path_factory, name):
    if is_plain_name(name):
        folder = tmp_path_factory.getbasetemp()
        assert (folder / name).parent == folder and (folder / name).resolve().name == name
        assert name.isprintable() and len(name.splitlines()) == 1
