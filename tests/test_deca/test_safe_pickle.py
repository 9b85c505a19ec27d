"""Pickles: the data comes out, nothing runs, and what is broken or hostile ends in a clear line."""

import copyreg
import io
import os
import pickle
import time
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from deca import safe_pickle
from deca.safe_pickle import read_pickle
from tests.test_deca.official_files import Evil, Python2Pickler, chumpy_array, one_line, stand_in_chumpy


def read(data):
    """What the pickle has under "x"."""
    return read_pickle(data, "file.pkl", ["x"])["x"]


def unpickled(value, pickler=pickle._Pickler, protocol=2):
    stream = io.BytesIO()
    pickler(stream, protocol).dump({"x": value})
    return read(stream.getvalue())


def under_x(data):
    """A protocol-0 dictionary with what `data` (opcodes) pushes under "x"."""
    return b"(dVx\n" + data + b"s."


@pytest.mark.parametrize(("pickler", "protocol"), [
    (Python2Pickler, 1), (Python2Pickler, 2), *((pickle._Pickler, protocol) for protocol in range(5))])
@pytest.mark.parametrize("array", [
    np.arange(12.0).reshape(3, 4), np.asfortranarray(np.arange(12.0).reshape(3, 4)), np.array([True, False]),
    np.arange(3, dtype=">i4"), np.array([[1, 2]], dtype=np.uint8)])
def test_arrays_of_all_kinds(pickler, protocol, array):
    found = unpickled(array, pickler, protocol)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("pickler", [pickle._Pickler, Python2Pickler])
@pytest.mark.parametrize("kind", [scipy.sparse.csc_matrix, scipy.sparse.csr_matrix])
def test_sparse_matrices_become_dense(kind, pickler):
    dense = np.where(np.random.default_rng(0).random((4, 7)) < 0.4, 1.5, 0)
    np.testing.assert_array_equal(unpickled(kind(dense), pickler), dense)


def test_only_what_is_asked_for_is_made():
    data = pickle.dumps({"a": np.arange(3), "b": torch.ones(3), "c": "text", (1, 2): [], "d": {1}}, 2)
    found = read_pickle(data, "file.pkl", ["a", "c", "z"])
    assert found.keys() == {"a", "c"} and found["c"] == "text" and found["a"].tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="_rebuild_tensor_v2 where an array was expected"):
        read_pickle(data, "file.pkl", ["b"])


def test_code_in_the_bytes_of_a_tensor_is_not_opened(tmp_path):
    """`_load_from_bytes` of the real thing would unpickle these bytes."""
    inner = pickle.dumps(Evil(tmp_path / "it ran"))
    storage = b"ctorch.storage\n_load_from_bytes\n(B" + len(inner).to_bytes(4, "little") + inner + b"tR"
    assert read_pickle(under_x(storage), "file.npy", []) == {}
    with pytest.raises(InputError, match="_load_from_bytes where an array was expected"):
        read(under_x(storage))
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
        read(b"\x80\x04" + text + pickle.STACK_GLOBAL + b".")
    assert f"asks for {module}.{name}" in one_line(error)


@pytest.mark.parametrize("key", sorted(safe_pickle.ALLOWED))
@pytest.mark.parametrize("state", [
    b"}(X\x01\x00\x00\x00xK\x01ub", b"N}(X\x08\x00\x00\x00__init__K\x01u\x86b"])
def test_a_pickle_cannot_change_the_reader(key, state):
    """A BUILD opcode on a class would set attributes of that class for everyone after."""
    kinds = (safe_pickle._Record,)
    before = [dict(vars(kind)) for kind in kinds]
    with pytest.raises(InputError, match="truncated or broken"):
        read(f"c{key[0]}\n{key[1]}\n".encode() + state + b".")
    assert before == [dict(vars(kind)) for kind in kinds]


def sample_pickle():
    """A small pickle with everything that the list allows."""
    stream = io.BytesIO()
    with stand_in_chumpy() as kind:
        Python2Pickler(stream, 2).dump({
            "a": chumpy_array(kind, np.arange(6.0)), "b": scipy.sparse.csc_matrix(np.eye(3)),
            "c": np.arange(3), "d": [np.float32(3), "text"]})
    return stream.getvalue()


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
def test_damaged_bytes_give_data_or_a_clear_line(changes, cut):
    data = bytearray(sample_pickle())
    for place, value in changes:
        data[place % len(data)] = value
    if cut:
        del data[changes[0][0] % len(data):]
    try:
        read_pickle(bytes(data), "file.pkl", "abcd")
    except InputError as error:
        assert str(error).startswith("file.pkl: ") and "\n" not in str(error)


TWICE = b"0h\x00h\x00\x86q\x00"       # the memo's first entry becomes a pair of itself


@pytest.mark.parametrize("data", [
    b"(lp0\ng0\na.",                                                  # a list that contains itself
    b"\x80\x02" + b"]" * 49_000 + b"a" * 48_999 + b".",               # nested too deeply
    b"\x80\x02" + b"}" * 200_000 + b".",                              # more parts than any real file has
    b"cnumpy\nndarray\n.",                                            # a class where data should be
    b"\x80\x04\x8e" + b"\xff" * 8 + b"x.",                            # bytes of an impossible length
    b"\x80\x05\x96" + (7 << 29).to_bytes(8, "little") + b".",         # 3.5 GB asked for in 12 bytes
    b"\x80\x02)q\x00" + TWICE * 64 + b"K\x01s.",                      # no dictionary below
    under_x(b"cnumpy\nndarray\n(tR(I1\n(tcnumpy\ndtype\n)q\x00" + TWICE * 64 + b"\x85RI0\nVtext\ntb"),
    under_x(b"cchumpy.ch\nCh\n(tRp1\n(dVx\ng1\nsb"),                 # a chumpy array of itself
    under_x(b"cscipy.sparse.csc\ncsc_matrix\n(tR(dVshape\n(I4\nI4\ntsVdata\n]q\x00"
            + b"0]h\x00ah\x00aq\x00" * 64 + b"sVindices\nh\x00sVindptr\nh\x00sb")],
    ids=["self", "deep", "many", "class", "length", "bytearray", "no dict", "type", "chumpy", "sparse"])
def test_hostile_structures_end_quickly(data):
    started = time.perf_counter()
    with pytest.raises(InputError, match="truncated or broken") as error:
        read(data)
    one_line(error)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("key", [
    b")q\x00" + TWICE * 64, b")" + b"2\x86" * 64, b")q\x00" + b"(0h\x00\x86q\x00" * 64,
    b")\x94" + b"2\x86\x94" * 64, b"()\x91q\x00" + b"0(h\x00h\x00\x86\x91q\x00" * 64,
    b")" + b"\x85" * 90_000], ids=["get", "dup", "pop mark", "memoize", "frozenset", "deep"])
@pytest.mark.parametrize("under", [b"\x80\x02}%bK\x01s.", b"\x80\x02}(X\x01\0\0\0xK\x07%bK\x01u."])
def test_a_key_of_nested_tuples_is_refused_at_once(key, under):
    """Its hash takes 2 to the 64 steps, or more of C's stack than there is."""
    started = time.perf_counter()
    with pytest.raises(InputError, match="tuples within tuples"):
        read_pickle(under % key, "file.pkl", ["x"])
    assert time.perf_counter() - started < 5


def test_what_is_asked_for_by_a_number_is_refused():
    """Where a program has read such a pickle, the number stands for the real thing, not for a name."""
    copyreg.add_extension("os", "getcwd", 0xF3)
    try:
        assert pickle.loads(b"\x80\x02\x82\xf3.") is os.getcwd
        with pytest.raises(InputError, match="asks for something by a number"):
            read(b"\x80\x02}X\x01\0\0\0x\x82\xf3)Rs.")
    finally:
        copyreg.remove_extension("os", "getcwd", 0xF3)


def test_a_memo_index_of_two_thousand_million_takes_no_memory():
    tracemalloc.start()
    with pytest.raises(InputError, match="a table of 2147483647 things"):
        read(b"\x80\x02}X\x01\0\0\0xK\x01r\xff\xff\xff\x7fs.")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


@pytest.mark.parametrize("change", [
    {"indptr": np.array([0, 1, 2, 30])}, {"indptr": np.array([0, 2, 1, 3])},
    {"indptr": np.array([0, 2**30, 0, 0])}, {"indices": np.array([0, 1, 9])},
    {"indices": np.array([0, 1, -1])}, {"indices": np.array([0.5, 1, 2])}, {"_shape": (3, 10**12)},
    {"_shape": (3, 4)}, {"data": np.ones(2)}, {"data": "text"}])
def test_impossible_sparse_matrices_are_refused(change):
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    matrix.__dict__.update(change)
    with pytest.raises(InputError, match="truncated or broken"):
        unpickled(matrix)


@pytest.mark.parametrize("data", [
    b"ccopyreg\n_reconstructor\n(cbuiltins\nobject\nNNtR", b"ccopyreg\n_reconstructor\n(Vtext\ntR",
    b"cnumpy\nndarray\n(tR(I1\n(I1\ntcnumpy\ndtype\n(VS5\ntRI0\nVabcde\ntb",
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntVb\ntR", b"cbuiltins\nobject\n(tR",
    b"cbuiltins\nobject\n(tR}b", b"cchumpy.ch\nCh\n(tR", b"cchumpy.ch\nCh\n(tRI1\nb",
    b"cchumpy.ch\nCh\n(tR}b",
    b"cnumpy\nndarray\n(tR(I1\n(I2\ntcnumpy\ndtype\n(VO8\ntRI0\n(lI1\naI2\natb",
    b"cnumpy\nndarray\n(tR(I1\n(I9\ntcnumpy\ndtype\n(Vf8\ntRI0\nVabcdefgh\ntb"],
    ids=["object", "text", "type", "kind", "empty", "state", "no state", "odd", "no x", "objects", "size"])
def test_allowed_names_used_in_other_ways_are_refused(data):
    with pytest.raises(InputError, match="truncated or broken") as error:
        read(under_x(data))
    one_line(error)
