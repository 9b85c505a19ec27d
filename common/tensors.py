"""State dicts on disk: the same tensors, the same bytes; only tensors are ever read."""

import io
import os
import re
import stat
import warnings

import torch

from common.errors import InputError
from common.files import write_bytes


def save_tensors(path, tensors):
    """Write a dict of name → tensor, whole or not at all. Raises: InputError when it cannot be written."""
    buffer = io.BytesIO()       # a file's own name would go into it
    torch.save({name: value.detach().cpu() for name, value in tensors.items()}, buffer)
    write_bytes(path, buffer.getvalue())


def load_tensors(path, device="cpu"):
    """The dict of name → tensor in `path`, also when it lies under "state_dict" there.

    Raises: InputError, naming the file, when it is missing, unsafe, damaged or no dict of tensors.
    """
    tensors = read_torch(path, device)
    if isinstance(tensors, dict) and isinstance(tensors.get("state_dict"), dict):
        tensors = tensors["state_dict"]
    if not (isinstance(tensors, dict) and all(isinstance(name, str) for name in tensors)
            and any(isinstance(value, torch.Tensor) for value in tensors.values())):
        raise InputError(f"{path}: not a state dict; give a file of tensors that torch.save wrote")
    return tensors


def read_torch(path, device="cpu"):
    """What `torch.save` wrote to `path`. A file that holds code is refused and nothing in it runs.

    Raises: InputError, naming the file, when it is missing, asks for code, or is damaged.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("no plain file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")     # about foreign pickles, which are refused anyway
            return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except Exception as error:      # damaged bytes fail in whatever way they like
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        if reason.startswith("Weights only"):       # torch's own advice is to run what the file holds
            reason = f"it asks for {asked[1]}, which could run code" if asked else "no file of torch.save"
        raise InputError(f"{path}: cannot be read safely ({reason}); nothing in it was run; "
                         "copy or download it anew from its owner") from error
