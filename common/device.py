"""The one check of the device that a person names."""

import os
import re

import torch

from common.errors import InputError

# What deterministic matrix products need; cuBLAS reads it once, at its first.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def choose_device(name):
    """torch.device for "auto" (CUDA where there is one), "cpu", "cuda", "cuda:N" or a torch.device.

    Raises: InputError when the device is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    found = re.fullmatch("cpu|cuda(?::(0|[1-9][0-9]{0,2}))?", str(name))
    if not found:
        raise InputError(f"--device {name}: unknown; use auto, cpu, cuda or cuda:N")
    if found[0] != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(found[1] or 0) >= count:
            raise InputError(f"--device {name}: PyTorch finds {count} CUDA devices; use --device cpu")
    return torch.device(name)
