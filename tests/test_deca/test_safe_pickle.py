"""Pickles: the data comes out, nothing runs, and what is broken or hostile ends in a clear line."""

import io
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from deca import safe_pickle
from deca.safe_pickle import CHUMPY, NUMPY, SCIPY, TORCH, read_pickle
from tests.test_deca.official_files import Evil, Python2Pickler, chumpy_array, one_line, stand_in_chumpy

ALL = (NUMPY, SCIPY, CHUMPY, TORCH)


def unpickled(value, pickler=pickle._Pickler, protocol=2, allow=ALL):
    stream = io.BytesIO()
    pickler(stream, protocol).dump(value)
    stream.seek(0)
    return read_pickle(stream, "file.pkl", allow)


@pytest.mark.parametrize("pickler", [pickle._Pickler, Python2Pickler])
@pytest.mark.parametrize("array", [
    np.arange(12.0).reshape(3, 4), np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.array([True, False]),
    np.arange(3, dtype=">i4"), np.float32(2.5), np.array([[1, 2]], dtype=np.uint8)])
def test_arrays_of_all_kinds(pickler, array):
    found = unpickled({"a": [array, "text", 3]}, pickler)["a"]
    np.testing.assert_array_equal(found[0], array)
    assert found[1:] == ["text", 3]


@pytest.mark.parametrize("kind", [scipy.sparse.csc_matrix, scipy.sparse.csr_matrix, scipy.sparse.coo_matrix])
def test_sparse_matrices_become_dense(kind):
    dense = np.where(np.random.default_rng(0).random((4, 7)) < 0.4, 1.5, 0)
    np.testing.assert_array_equal(unpickled(kind(dense)), dense)


def test_newer_pickles_of_the_same_data():
    found = unpickled({"x": np.arange(5), "t": torch.ones(3)}, protocol=4)
    np.testing.assert_array_equal(found["x"], np.arange(5))
    assert found["t"] is None        # noted, not opened


def test_code_in_the_bytes_of_a_tensor_is_not_opened(tmp_path):
    """`_load_from_bytes` of the real thing would unpickle these bytes."""
    inner = pickle.dumps(Evil(tmp_path / "it ran"))
    storage = b"ctorch.storage\n_load_from_bytes\n(B" + len(inner).to_bytes(4, "little") + inner + b"tR."
    assert read_pickle(io.BytesIO(b"\x80\x03" + storage), "x", (TORCH,)) is None
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("asked", [
    "builtins eval", "builtins getattr", "__builtin__ open", "os system", "posix system", "subprocess Popen",
    "numpy load", "numpy fromfile", "numpy.core.multiarray fromfile", "torch load", "scipy.sparse load_npz",
    "torch._utils _rebuild_parameter", "chumpy.ch ChLambda", "numpy ndarray.tofile",
    "chumpy.ch Ch.__init__.__globals__"])
def test_names_outside_the_list_are_refused(asked):
    module, name = asked.split()
    text = b"".join(pickle.SHORT_BINUNICODE + bytes([len(part)]) + part.encode() for part in (module, name))
    with pytest.raises(InputError) as error:
        read_pickle(io.BytesIO(b"\x80\x04" + text + pickle.STACK_GLOBAL + b"."), "file.pkl", ALL)
    assert f"asks for {module}.{name}" in one_line(error)


@pytest.mark.parametrize("group", [SCIPY, CHUMPY, TORCH])
def test_each_place_opens_only_its_own_classes(group):
    (module, name), *_ = safe_pickle.ALLOWED[group]
    with pytest.raises(InputError, match=f"asks for {module}.{name}"):
        read_pickle(io.BytesIO(f"c{module}\n{name}\n.".encode()), "file.npy", (NUMPY,))


@pytest.mark.parametrize("key", [
    *safe_pickle.PYTHON, *(key for group in ALL for key in safe_pickle.ALLOWED[group])])
@pytest.mark.parametrize("state", [
    b"}(X\x01\x00\x00\x00xK\x01ub", b"N}(X\x08\x00\x00\x00__init__K\x01u\x86b"])
def test_a_pickle_cannot_change_the_allowed_classes(key, state):
    """A BUILD opcode on a class would set attributes of that class for everyone after."""
    before = {kind: dict(vars(kind)) for kind in safe_pickle._StandIn.__subclasses__()}
    with pytest.raises(InputError, match="truncated or broken"):
        read_pickle(io.BytesIO(f"c{key[0]}\n{key[1]}\n".encode() + state + b"."), "file.pkl", ALL)
    assert before == {kind: dict(vars(kind)) for kind in safe_pickle._StandIn.__subclasses__()}


def sample_pickle():
    """A small pickle with everything that the list allows."""
    stream = io.BytesIO()
    with stand_in_chumpy() as kind:
        Python2Pickler(stream, 2).dump({
            "a": chumpy_array(kind, np.arange(6.0)), "b": scipy.sparse.csc_matrix(np.eye(3)),
            "c": np.array({"x": np.float32(2)}, dtype=object), "d": [np.arange(3), "text"]})
    return stream.getvalue()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_damaged_bytes_give_data_or_a_clear_line(changes, cut):
    data = bytearray(sample_pickle())
    for place, value in changes:
        data[place % len(data)] = value
    if cut:
        del data[changes[0][0] % len(data):]
    try:
        read_pickle(io.BytesIO(bytes(data)), "file.pkl", ALL)
    except InputError as error:
        assert str(error).startswith("file.pkl: ") and "\n" not in str(error)


def test_hostile_structures_end_quickly():
    for data in (b"(lp0\ng0\na.",                                        # a list that contains itself
                 b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",    # nested too deeply
                 b"cnumpy\nndarray\n.",                                  # a class where data should be
                 b"\x80\x04\x8e" + b"\xff" * 8 + b"x."):                 # bytes of an impossible length
        with pytest.raises(InputError, match="truncated or broken") as error:
            read_pickle(io.BytesIO(data), "file.pkl", ALL)
        one_line(error)


def test_a_memo_index_of_two_thousand_million_takes_no_memory():
    assert read_pickle(io.BytesIO(b"\x80\x02K\x01r\xff\xff\xff\x7f."), "file.pkl", ALL) == 1


def test_shared_parts_are_expanded_once():
    """Forty lists, each holding the one before twice, are not 2 to the 40 lists."""
    value = []
    for _ in range(40):
        value = [value, value]
    assert len(unpickled(value)) == 2


@pytest.mark.parametrize("change", [
    {"indptr": np.array([0, 1, 2, 30])}, {"indptr": np.array([0, 2, 1, 3])}, {"indices": np.array([0, 1, 9])},
    {"indices": np.array([0, 1, -1])}, {"indices": np.array([0.5, 1, 2])}, {"_shape": (3, 10**12)},
    {"_shape": (3, 4)}, {"data": np.ones(2)}, {"data": "text"}])
def test_impossible_sparse_matrices_are_refused(change):
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    matrix.__dict__.update(change)
    with pytest.raises(InputError, match="truncated or broken"):
        unpickled(matrix)


@pytest.mark.parametrize("data", [
    b"c_codecs\nencode\n(Vtext\nVrot13\ntR.", b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\nNNtR.",
    b"cnumpy\ndtype\n(VS5\ntR.", b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntVb\ntR.",
    b"cbuiltins\nobject\n(tR.", b"cbuiltins\nobject\n(tR}b.", b"cchumpy.ch\nCh\n(tR.",
    b"cchumpy.ch\nCh\n(tRI1\nb.", b"cchumpy.ch\nCh\n(tR}b.",
    b"cnumpy\nndarray\n(tR(I1\n(I2\ntcnumpy\ndtype\n(VO8\ntRI0\n(lI1\naI2\natb."],
    ids=["codec", "class", "type", "kind", "object", "state", "empty", "no state", "no x", "objects"])
def test_allowed_names_used_in_other_ways_are_refused(data):
    with pytest.raises(InputError, match="truncated or broken") as error:
        read_pickle(io.BytesIO(data), "file.pkl", ALL)
    one_line(error)
