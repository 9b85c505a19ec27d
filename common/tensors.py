"""State dicts on disk: the same tensors, the same bytes; only tensors are ever read."""

import io
import os
import re
import stat
import warnings
import zipfile

import torch

from common.errors import InputError, reason
from common.files import write_bytes
from common.pickles import check_pickle

NESTED = ("state_dict", "model_state_dict", "model", "net")     # where training programs put a state dict
WRAPPERS = ("module.", "_orig_mod.", "module.")     # DataParallel's and torch.compile's, in either order
MAX_PICKLE = 2**28      # bytes of names and sizes
MAX_OPCODES = 10**6     # of a pickle; torch.save makes some 30 for a tensor


def save_tensors(path, tensors):
    """Write a dict of name → tensor, whole or not at all. Raises: InputError when it cannot be written."""
    buffer = io.BytesIO()       # a file's own name would go into it
    torch.save({name: value.detach().cpu() for name, value in tensors.items()}, buffer)
    write_bytes(path, buffer.getvalue())


def load_tensors(path, device="cpu"):
    """The dict of name → tensor in `path`, also where it lies under one of NESTED there, or where what
    trained it has put one of WRAPPERS before every name.

    Raises: InputError, naming the file, when it is missing, unsafe, damaged or no dict of tensors of finite
    real numbers.
    """
    tensors = read_torch(path, device)
    if isinstance(tensors, dict):
        tensors = next((tensors[name] for name in NESTED if isinstance(tensors.get(name), dict)), tensors)
    if not (isinstance(tensors, dict) and all(isinstance(name, str) for name in tensors)
            and any(isinstance(value, torch.Tensor) for value in tensors.values())):
        raise InputError(f"{path}: not a state dict; give a file of tensors that torch.save wrote")
    for name, value in tensors.items():
        if isinstance(value, torch.Tensor) and not _is_plain(value):
            raise InputError(f"{path}: {name:.80}: not finite real numbers in a dense tensor; take a state "
                             "dict of a training that went well")
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _is_plain(value):
    """Whether a tensor is a block of finite real numbers, as a network can take it."""
    odd = value.is_nested or value.is_quantized or value.is_meta or value.is_complex()
    if odd or value.layout != torch.strided:
        return False
    repeats = value.nbytes > value.untyped_storage().nbytes()      # by its strides: it could fill the memory
    try:
        return not repeats and bool(value.isfinite().all())
    except NotImplementedError:     # for numbers of 8 bits and fewer
        return False


def read_torch(path, device="cpu"):
    """What `torch.save` wrote to `path`. A file that holds code is refused and nothing in it runs.

    Raises: InputError, naming the file, when it is missing, asks for code, or is damaged.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("no plain file")
        with warnings.catch_warnings():
            _check_pickles(path)
            warnings.simplefilter("ignore")     # about foreign pickles, which are refused anyway
            return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except Exception as error:      # damaged bytes fail in whatever way they like
        asked = re.search(r"GLOBAL (\S+)", str(error))
        said = reason(error)
        if said.startswith("Weights only"):     # torch's own advice is to run what the file holds
            said = f"it asks for {asked[1]}, which could run code" if asked else "no file of torch.save"
        raise InputError(f"{path}: cannot be read safely ({said}); nothing in it was run; "
                         "copy it anew from its source, or remove it and train again") from error


def _check_pickles(path):
    """Raise ValueError for pickles that would harm torch's safe reader, and for an archive that is compressed
    or damaged."""
    with open(path, "rb") as stream:
        if stream.peek(4).startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(stream) as archive:
                if any(info.compress_type for info in archive.infolist()):
                    raise ValueError("compressed, which torch.save never does: it could fill the memory")
                found = [info for info in archive.infolist() if info.filename.endswith("data.pkl")]
                if sum(info.file_size for info in found) > MAX_PICKLE:
                    raise ValueError("far more names than a state dict has")
                for info in found:
                    check_pickle(archive.read(info), MAX_OPCODES)
                if damaged := archive.testzip():        # which torch does not ask
                    raise ValueError(f"the checksum of {damaged} is wrong")
        else:
            for _ in range(5):      # torch's old format: five pickles, then numbers
                if stream.peek(1):
                    check_pickle(stream, MAX_OPCODES)
