"""State dicts on disk: the same tensors, the same bytes; only tensors are ever read."""

import io
import pickle
import zipfile

import torch

from common.errors import InputError
from common.files import write_bytes

# What torch.load raises for a file that is damaged, no state dict, or holds code.
UNREADABLE = (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, LookupError,
              TypeError, AttributeError, ImportError, OverflowError, MemoryError, RecursionError, NotImplementedError)


def save_tensors(path, tensors):
    """Write a dict of name → tensor, whole or not at all. Raises: InputError when it cannot be written."""
    buffer = io.BytesIO()       # a file's own name would go into it
    torch.save({name: value.detach().cpu() for name, value in tensors.items()}, buffer)
    write_bytes(path, buffer.getvalue())


def load_tensors(path, device="cpu"):
    """The dict of name → tensor in `path`. A file that holds code is refused and nothing in it runs.

    Raises: InputError, naming the file, when it is missing, unsafe, damaged or no dict of tensors.
    """
    try:
        tensors = torch.load(path, map_location=device, weights_only=True)
        if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
            tensors = tensors["state_dict"]
        if not (isinstance(tensors, dict) and all(isinstance(name, str) for name in tensors)
                and any(isinstance(value, torch.Tensor) for value in tensors.values())):
            raise ValueError("no dict of tensors")
    except UNREADABLE as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise InputError(f"{path}: not a state dict that can be read safely ({reason}); nothing in it was run; "
                         "give a file of tensors that torch.save wrote") from error
    return tensors
