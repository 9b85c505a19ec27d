"""Reads arrays out of a pickle without running anything that the pickle asks for.

FLAME's model file is a Python 2 pickle of numpy, scipy.sparse and chumpy objects. `pickle.load` calls
whatever its author chose. Here a name on a short list makes an inert record, any other is refused; the arrays
that are asked for are then made from their records.
"""

import io
import pickle

import numpy as np
from scipy import sparse

from common.errors import InputError, broken_file
from common.pickles import check_pickle

MAX_OPCODES = 20_000        # the real files have some hundred
MAX_DENSE = 10**7           # numbers in a sparse matrix made dense; FLAME's has 25,115
ALLOWED = {(module, name) for modules, names in (
    ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar"), ("numpy", "ndarray dtype"),
    ("scipy.sparse.csc scipy.sparse._csc", "csc_matrix"), ("chumpy.ch chumpy", "Ch"),
    ("scipy.sparse.csr scipy.sparse._csr", "csr_matrix"), ("copyreg copy_reg", "_reconstructor"),
    ("builtins __builtin__", "object set"), ("_codecs", "encode"), ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch.storage", "_load_from_bytes"),
    ) for module in modules.split() for name in names.split()}
NUMBERS = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]


class _Record:
    """What a name on the list would have made, had it been called: of which arguments, with which state."""

    def __new__(cls, *arguments):
        record = super().__new__(cls)
        record.arguments, record.state = arguments, None
        return record

    def __setstate__(self, state):
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise InputError(f"refused, it asks for {module}.{name}, which could run code; nothing in it was "
                             "run; download it anew from its owner")
        return type(name, (_Record,), {})


def read_pickle(data, path, names):
    """The values under `names` in the dictionary that the pickle `data` (bytes) holds, as far as it has them.

    A numpy or chumpy array, or a csc or csr matrix (made dense), comes as a numpy array. Raises: InputError
    with the file's name `path`, for a class or function not allowed, and for a truncated or broken file.
    """
    try:
        check_pickle(data, MAX_OPCODES)
        found = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        if isinstance(found, _Record):              # what a .npy file holds: an array of one object
            (found,) = found.state[4]
        if not isinstance(found, dict):
            raise ValueError(f"expected a dictionary, found {type(found).__name__}")
        return {name: _array(found[name]) for name in names if name in found}
    except InputError as refused:
        raise InputError(f"{path}: {refused}") from None
    except Exception as error:      # damaged bytes fail in whatever way they like
        raise broken_file(path, error) from error


def _array(value):
    """A record of an array or a matrix → numpy array; anything else as it is."""
    if not isinstance(value, _Record):
        return value
    kind, state = type(value).__name__, value.state
    if kind in ("_reconstruct", "_reconstructor"):      # of the class that is their first argument
        kind = value.arguments[0].__name__
    if kind == "Ch":
        return _array(state["x"])
    if kind in ("csc_matrix", "csr_matrix"):
        parts = [_array(state[part]) for part in ("data", "indices", "indptr")]
        return _dense(kind, *map(int, state["_shape"]), parts)
    if kind != "ndarray":
        raise ValueError(f"{kind} where an array was expected")
    _, shape, dtype, is_fortran, raw = state
    if dtype.arguments[0] not in NUMBERS:
        raise ValueError("an array of something else than numbers")
    raw = raw.arguments[0] if isinstance(raw, _Record) else raw             # `encode` of text, by Python 3
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    order = ">" if dtype.state[1] == ">" else "<"
    return np.frombuffer(raw, order + dtype.arguments[0]).reshape(shape, order="F" if is_fortran else "C")


def _dense(kind, rows, columns, parts):
    """A sparse matrix of data, indices, indptr → numpy array (rows, columns)."""
    if rows * columns > MAX_DENSE or [part.dtype.kind in "iu" for part in parts] != [False, True, True]:
        raise ValueError(f"a sparse matrix of {rows} x {columns}")
    made = getattr(sparse, kind)(tuple(parts), shape=(rows, columns))
    made.check_format()                         # no index outside
    if (np.diff(made.indptr) < 0).any():        # which scipy does not ask where the last one is 0
        raise ValueError("a sparse matrix with a column of fewer than no numbers")
    return made.toarray()
