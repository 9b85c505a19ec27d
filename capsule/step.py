"""One training step and one prediction, in the arithmetic that suits the device."""

import torch

from common.errors import InputError

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")    # CPUs without them are slower in bf16 than in fp32


def choose_precision(device, precision):
    """"fp32" or "bf16" for a device; `precision` "auto" takes bf16 where the device computes it fast.

    In bf16 the convolutions and matrix products read bf16 numbers and add in float32; weights, optimiser and
    capsules stay float32. Raises: InputError for an unknown precision, or bf16 on a GPU without it.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise InputError(f"--precision {precision}: unknown; use auto, fp32 or bf16")
    if precision == "fp32":
        return "fp32"
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not fast:
            raise InputError(f"--precision bf16: {torch.cuda.get_device_name(device)} has no bf16; use fp32")
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = any(capabilities.get(name, False) for name in BF16_INSTRUCTIONS)
    return "bf16" if fast or precision == "bf16" else "fp32"


def autocast_for(device, precision):
    """Context manager: operations run in `precision`, "fp32" or "bf16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def make_step(model, optimizer, loss, device, precision):
    """A function (inputs, labels) → loss that trains `model` by one batch.

    inputs: list of float tensors (B, C, H, W) on the device, the model's arguments. labels: int64 (B,). Gives
    the detached mean loss, on the device (reading it there would wait for the GPU). `model` must be on the
    device; on a GPU its convolutions are laid out channels-last.
    """
    if device.type == "cuda":    # on a CPU it would be rearranged again and again, by the optimiser too
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.to(memory_format=torch.channels_last)

    def step(inputs, labels):
        model.train()
        with autocast_for(device, precision):
            outputs = model(*_channels_last(inputs))
        value = loss(outputs.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def predict(model, inputs, device, precision):
    """Outputs of `model` for `inputs` (see `make_step`), float32 (B, classes), in evaluation mode."""
    model.eval()
    with torch.inference_mode(), autocast_for(device, precision):
        return model(*_channels_last(inputs)).float()


def _channels_last(inputs):
    return [images.contiguous(memory_format=torch.channels_last) for images in inputs]
