"""How a run computes on its device: threads, precision, kernels."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch
from torch.utils._triton import has_triton

from common.errors import InputError

BF16_INSTRUCTION = "amx_bf16"       # with avx512_bf16 alone: 46 images/s, in fp32 64 (2-D, --quick, 2 cores)


def set_arithmetic(device, threads=0, deterministic=False):
    """Set what is global to the process: CPU threads (0: all cores), TF32, deterministic kernels.

    On CUDA, float32 products run in TF32 (10-bit mantissa, as PyTorch's own convolutions do by
    default); `deterministic` asks for repeatable kernels and switches TF32 and tuning off.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(threads or cores)
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)       # what names no device, as a graph's stream, means this one
        torch.backends.cuda.matmul.allow_tf32 = not deterministic
        torch.backends.cudnn.allow_tf32 = not deterministic
        torch.use_deterministic_algorithms(deterministic, warn_only=True)


def sent(tensor, device):
    """A tensor of the CPU on `device`; to a GPU it goes without waiting for what is to do there before."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def can_compile():
    """Whether torch.compile has what it needs on a GPU: Triton, a C compiler and Python's headers."""
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")     # as Triton looks
    headers = Path(sysconfig.get_paths(scheme)["include"], "Python.h")
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return bool(has_triton() and compiler and headers.is_file())


def tune_convolutions(wanted):
    """Let cuDNN time its kernels for the shapes that come next, and keep the fastest; never if deterministic.

    It costs seconds for each new batch size, so it is for those that come again and again.
    """
    torch.backends.cudnn.benchmark = wanted and not torch.are_deterministic_algorithms_enabled()


def choose_precision(device, precision):
    """"fp32" or "bf16" for a device; `precision` "auto" takes bf16 where the device computes it fast.

    In bf16 the convolutions and matrix products read bf16 numbers and add in float32; weights, optimiser and
    capsules stay float32. Raises: InputError for bf16 on a GPU without it.
    """
    if precision == "fp32":
        return "fp32"
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
        if precision == "bf16" and not fast:
            raise InputError(f"--precision bf16: {torch.cuda.get_device_name(device)} has no bf16; use fp32")
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = capabilities.get(BF16_INSTRUCTION, False)
    return "bf16" if fast or precision == "bf16" else "fp32"


def autocast_for(device, precision):
    """Context manager: operations run in `precision`, "fp32" or "bf16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
