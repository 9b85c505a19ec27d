"""Reads the arrays out of a pickle without running anything that the pickle asks for.

FLAME's model file is a Python 2 pickle of numpy, scipy.sparse and chumpy objects. A pickle names classes and
functions it wants called, so opening one with `pickle.load` runs whatever its author chose. Here each name on
a short list stands for a small class of this module that only keeps data; any other name is refused. The
pickle itself calls neither numpy, scipy, torch nor chumpy: a crafted array state cannot reach their C code.
"""

import io
import pickle
import struct

import numpy as np

from common.errors import InputError

NUMPY, SCIPY, CHUMPY, TORCH = "numpy", "scipy.sparse", "chumpy", "torch"
BROKEN = (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
          ImportError, OverflowError, RecursionError, MemoryError, AssertionError, struct.error)


_UNDER_WAY = object()


class _Refused(Exception):
    """The pickle named something outside the list; carries "module.name"."""


class _StandIn:
    """Base of all stand-ins. Its `__setstate__` keeps a BUILD opcode from touching attributes of a class.

    `plain(memo)` gives the data that the object stands for, free of stand-ins.
    """

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __setstate__(self, state):
        raise pickle.UnpicklingError(f"unexpected state for {type(self).__name__}")

    def plain(self, memo):
        raise ValueError(f"an object of class {type(self).__name__} where data was expected")


class _Set(_StandIn):
    def __init__(self, items=()):
        self.items = items

    def plain(self, memo):
        return set()        # only chumpy's bookkeeping has sets; their content is of no use


class _Object(_StandIn):
    pass


class _Latin1(_StandIn):
    """`_codecs.encode(text, "latin1")`: how Python 3 writes bytes into a protocol-2 pickle."""

    def __new__(cls, text, encoding="latin1"):
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"text encoding {encoding!r}")
        return text.encode("latin1")


class _Reconstructor(_StandIn):
    """`copyreg._reconstructor(class, object, None)`: how protocols 0 and 1 make an empty object."""

    def __new__(cls, kind, base=None, state=None):
        if not (isinstance(kind, type) and issubclass(kind, (_Chumpy, _Sparse))) or state is not None:
            raise pickle.UnpicklingError("copyreg._reconstructor of an unexpected class")
        return kind()


class _DType(_StandIn):
    """A numeric numpy dtype, or object: the only ones the official files have."""

    CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")

    def __init__(self, code, align=False, copy=True):
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if code not in self.CODES and code not in ("O8", "O4", "O"):
            raise pickle.UnpicklingError(f"array of type {code!r}")
        self.is_object = code.startswith("O")
        self.value = np.dtype(object if self.is_object else code)

    def __setstate__(self, state):
        if len(state) > 1 and state[1] == ">":
            self.value = self.value.newbyteorder(">")


class _Array(_StandIn):
    value = None

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, raw = state
        shape = tuple(int(size) for size in shape)
        if dtype.is_object:
            if shape != () or len(raw) != 1:
                raise pickle.UnpicklingError(f"an array of objects of shape {shape}")
            self.value = raw[0]
            return
        raw = raw.encode("latin1") if isinstance(raw, str) else raw      # Python 2's str
        self.value = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if is_fortran else "C")

    def plain(self, memo):
        return _plain(self.value, memo)


class _Reconstruct(_StandIn):
    """`numpy.core.multiarray._reconstruct(ndarray, (0,), "b")`: an empty array that its state fills."""

    def __new__(cls, kind, shape=(0,), code=b"b"):
        if kind is not _Array:
            raise pickle.UnpicklingError("an array of an unexpected class")
        return _Array()


class _Scalar(_StandIn):
    def __init__(self, dtype, raw):
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        self.value = np.frombuffer(raw, dtype.value)[0]

    def plain(self, memo):
        return self.value


class _Stateful(_StandIn):
    """An object that is nothing but its attribute dictionary."""

    state = None

    def __setstate__(self, state):
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("an object without attributes")
        self.state = state

    def plain(self, memo):
        if self.state is None:
            raise pickle.UnpicklingError("an object without attributes")
        return self.array({key: _plain(value, memo) for key, value in self.state.items()})


class _Chumpy(_Stateful):
    """chumpy.ch.Ch: a differentiable array; its numbers are in the attribute `x`."""

    def array(self, state):
        return state["x"]


class _Sparse(_Stateful):
    """A scipy.sparse matrix of one of three kinds, turned into a dense array."""

    def array(self, state):
        shape = tuple(int(size) for size in state["_shape" if "_shape" in state else "shape"])
        if len(shape) != 2 or min(shape) < 0 or shape[0] * shape[1] > 10**8:
            raise ValueError(f"a sparse matrix of shape {shape}")
        rows, columns = self.places(state, shape)
        if len(rows) != len(columns) or min(rows.min(initial=0), columns.min(initial=0)) < 0:
            raise ValueError("a sparse matrix with impossible indices")
        dense = np.zeros(shape, state["data"].dtype)
        np.add.at(dense, (rows, columns), state["data"])       # equal places add up, as scipy's do
        return dense

    def spread(self, state, n_lines):
        """The line (row or column) of each stored number, from where each line starts."""
        starts = state["indptr"]
        if len(starts) != n_lines + 1 or starts[-1] != len(state["data"]):
            raise ValueError("a sparse matrix with impossible line starts")
        return np.repeat(np.arange(n_lines), np.diff(starts))


class _Csc(_Sparse):
    def places(self, state, shape):
        return state["indices"], self.spread(state, shape[1])


class _Csr(_Sparse):
    def places(self, state, shape):
        return self.spread(state, shape[0]), state["indices"]


class _Coo(_Sparse):
    def places(self, state, shape):
        return state.get("coords") or (state["row"], state["col"])


class _Dropped(_StandIn):
    """A torch tensor (or its storage): taken note of, never opened. Nothing here needs one."""

    def plain(self, memo):
        return None


class _OrderedDict(_Dropped):
    """Only ever the empty hook list of a torch tensor."""


ALLOWED = {
    NUMPY: {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _DType} | {
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", _Reconstruct), ("scalar", _Scalar))},
    SCIPY: {(f"scipy.sparse.{prefix}{kind}", f"{kind}_matrix"): stand_in
            for prefix in ("", "_") for kind, stand_in in (("csc", _Csc), ("csr", _Csr), ("coo", _Coo))},
    CHUMPY: {("chumpy.ch", "Ch"): _Chumpy, ("chumpy", "Ch"): _Chumpy},
    TORCH: {("torch._utils", "_rebuild_tensor_v2"): _Dropped, ("torch.storage", "_load_from_bytes"): _Dropped,
            ("collections", "OrderedDict"): _OrderedDict},
}
PYTHON = {("_codecs", "encode"): _Latin1} | {
    (module, name): stand_in for new, old, name, stand_in in (
        ("copyreg", "copy_reg", "_reconstructor", _Reconstructor),
        ("builtins", "__builtin__", "object", _Object),
        ("builtins", "__builtin__", "set", _Set))
    for module in (new, old)}


class _Unpickler(pickle._Unpickler):
    """Python's own, not its C twin: there a damaged memo index makes a table of many gigabytes."""

    def __init__(self, stream, allowed):
        super().__init__(io.BytesIO(stream.read()), encoding="latin1")      # no read beyond the file
        self.allowed = allowed

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            raise _Refused(f"{module}.{name}")
        return self.allowed[module, name]


def _plain(value, memo):
    """`value` with every stand-in replaced by the array (or number) it stands for. `memo`: id → result."""
    if isinstance(value, type):
        raise ValueError("a class where data was expected")
    if not isinstance(value, (_StandIn, dict, list, tuple)):
        return value
    if id(value) not in memo:
        memo[id(value)] = _UNDER_WAY
        memo[id(value)] = _plain_container(value, memo)
    if memo[id(value)] is _UNDER_WAY:
        raise ValueError("an object that contains itself")
    return memo[id(value)]


def _plain_container(value, memo):
    if isinstance(value, dict):
        return {key: _plain(item, memo) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, memo) for item in value]
    return value.plain(memo)


def read_pickle(stream, path, allow=(NUMPY,)):
    """The data in the pickle at `stream` (binary): dicts, lists, text, numbers and numpy arrays.

    `path` is the file's name for messages; `allow` the groups of classes it may hold. A chumpy array and a
    sparse matrix come back as a dense numpy array, a torch tensor (group TORCH) as None, unopened.

    Raises: InputError naming the file, with the class it asked for when that is not allowed, or saying that
    the file is truncated or broken.
    """
    allowed = dict(PYTHON)
    for group in allow:
        allowed |= ALLOWED[group]
    try:
        return _plain(_Unpickler(stream, allowed).load(), {})
    except _Refused as refused:
        raise InputError(refusal(path, refused)) from None
    except BROKEN as error:
        raise broken_file(path, error) from error


def refusal(path, asked):
    """The message for a file that asks for the class or function `asked`."""
    return (f"{path}: refused, it asks for {asked}, which could run code; nothing in it was run; "
            "download it anew from its owner")


def broken_file(path, error):
    """The InputError for a file that could not be read to its end because of `error`."""
    reason = " ".join(str(error).split())[:100] or type(error).__name__
    return InputError(f"{path}: truncated or broken ({reason}); download it anew from its owner")
