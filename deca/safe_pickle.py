"""Reads arrays out of a pickle without running anything that the pickle asks for.

FLAME's model file is a Python 2 pickle of numpy, scipy.sparse and chumpy objects. A pickle names classes and
functions it wants called, so `pickle.load` runs whatever its author chose. Here a name on a short list turns
into an inert record, any other is refused. The arrays that are asked for are then made from their records,
every type and size checked.
"""

import io
import pickle
import pickletools

import numpy as np
import scipy.sparse

from common.errors import InputError, broken_file

MAX_OPCODES = 100_000       # the real files have some hundred
MAX_DENSE = 10**7           # numbers in a sparse matrix made dense; FLAME's has 25,115
ALLOWED = {(module, name) for modules, names in (
    ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar"), ("numpy", "ndarray dtype"),
    ("scipy.sparse.csc scipy.sparse._csc", "csc_matrix"), ("chumpy.ch chumpy", "Ch"),
    ("scipy.sparse.csr scipy.sparse._csr", "csr_matrix"), ("copyreg copy_reg", "_reconstructor"),
    ("builtins __builtin__", "object set"), ("_codecs", "encode"), ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch.storage", "_load_from_bytes"),
    ) for module in modules.split() for name in names.split()}
REFUSED = {"FROZENSET", "EXT1", "EXT2", "EXT4"}     # hash what may be nested; ask by a number
NUMBERS = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]      # `in` hashes nothing


class _Record:
    """A name on the list or, called, what it would have made: of which arguments, with which state."""

    def __init__(self, name, *arguments):
        self.name, self.arguments, self.state = name, arguments, None

    def __call__(self, *arguments):
        makes_another = self.name in ("_reconstruct", "_reconstructor")
        return _Record(arguments[0].name if makes_another else self.name, *arguments)

    def __setstate__(self, state):
        self.state = state


class _Dict(dict):
    """Drops what is not under text: hashing a key of nested tuples could take for ever."""

    __slots__ = ()

    def __setitem__(self, key, value):
        if isinstance(key, str):
            super().__setitem__(key, value)


class _Unpickler(pickle._Unpickler):
    """Python's own, not its C twin: there a damaged memo index makes a table of many gigabytes."""

    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise InputError(f"refused, it asks for {module}.{name}, which could run code; nothing in it was "
                             "run; download it anew from its owner")
        return _Record(name)

    def load_dict(self):
        if self.pop_mark():
            raise pickle.UnpicklingError("a dictionary made in one step")
        self.append(_Dict())

    dispatch = pickle._Unpickler.dispatch | {
        pickle.EMPTY_DICT[0]: lambda self: self.append(_Dict()), pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: lambda self: self.pop_mark(),       # a set stays empty: no array is in one
        pickle.NEWOBJ[0]: pickle._Unpickler.load_reduce}


def read_pickle(data, path, names):
    """The values under `names` in the dictionary that the pickle `data` (bytes) holds, as far as it has them.

    A numpy or chumpy array, or a csc or csr matrix (made dense), comes as a numpy array. `path` is the file's
    name for messages. Raises: InputError naming the file, with the class or function it asked for when that
    is not allowed, or saying that the file is truncated or broken.
    """
    try:
        for count, (opcode, _, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_OPCODES or opcode.name in REFUSED:
                raise pickle.UnpicklingError(f"{opcode.name} at opcode {count}")
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
    if value.name == "Ch":
        return _array(value.state["x"])
    if value.name in ("csc_matrix", "csr_matrix"):
        return _dense(value.name, value.state)
    if value.name != "ndarray":
        raise ValueError(f"{value.name} where an array was expected")
    _, shape, dtype, is_fortran, raw = value.state
    code, order = dtype.arguments[0], ">" if dtype.state[1] == ">" else "<"
    if code not in NUMBERS:
        raise ValueError("an array of something else than numbers")
    raw = raw.arguments[0] if isinstance(raw, _Record) else raw         # `encode` of text, by Python 3
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, order + code).reshape(shape, order="F" if is_fortran else "C")


def _dense(kind, state):
    """The state of a sparse matrix → numpy array of its shape."""
    rows, columns = map(int, state["_shape"])
    parts = [_array(state[part]) for part in ("data", "indices", "indptr")]
    if rows * columns > MAX_DENSE or [part.dtype.kind in "iu" for part in parts] != [False, True, True]:
        raise ValueError(f"a sparse matrix of {rows} x {columns}")
    made = getattr(scipy.sparse, kind)(tuple(parts), shape=(rows, columns))
    made.check_format()                         # no index outside
    if (np.diff(made.indptr) < 0).any():        # which scipy does not ask where the last one is 0
        raise ValueError("a sparse matrix with a column of fewer than no numbers")
    return made.toarray()
