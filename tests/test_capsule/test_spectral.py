"""The convolution by spectra against the direct one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from capsule.modules import MECapsuleNet
from capsule.modules.spectral import MIN_BATCH, SpectralConv2d, correlate


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5),
       st.integers(0, 6), st.integers(0, 6), st.integers(0, 2**31))
def test_values_and_gradients_are_the_direct_ones(batch, n_in, n_out, rows, columns, taller, wider, seed):
    draws = torch.Generator().manual_seed(seed)
    shapes = ((batch, n_in, rows + taller, columns + wider), (n_out, n_in, rows, columns))
    x, weight = (torch.randn(*s, dtype=torch.double, generator=draws, requires_grad=True) for s in shapes)
    ours, direct = correlate(x, weight), F.conv2d(x, weight)
    assert ours.shape == direct.shape and torch.allclose(ours, direct, atol=1e-10)
    along = torch.randn(*direct.shape, dtype=torch.double, generator=draws)
    for one, other in zip(torch.autograd.grad(ours, (x, weight), along),
                          torch.autograd.grad(direct, (x, weight), along), strict=True):
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("batch", [MIN_BATCH["fp32"] - 1, MIN_BATCH["fp32"]])
def test_layer_is_a_convolution_at_any_batch_size(batch):
    torch.manual_seed(0)
    layer, direct = SpectralConv2d(4, 6, 9), torch.nn.Conv2d(4, 6, 9)
    direct.load_state_dict(layer.state_dict(), strict=True)
    x = torch.randn(batch, 4, 20, 19)
    kept = x.clone()
    assert torch.allclose(layer(x), direct(x), atol=1e-5)
    assert torch.equal(x, kept)


def test_layer_stays_precise_under_autocast():
    torch.manual_seed(0)
    layer, x = SpectralConv2d(4, 6, 9), torch.randn(MIN_BATCH["bf16"], 4, 20, 20)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
        few = layer(x[1:])
    assert half.dtype == torch.float32 and torch.equal(half, layer(x))
    assert few.dtype == torch.bfloat16


def test_network_trains_alike_by_spectra_and_directly():
    torch.manual_seed(0)
    model = MECapsuleNet((3, 136, 136), 3, pretrained=False, width=0.125).eval()
    x = torch.rand(MIN_BATCH["fp32"], 3, 136, 136)
    gradients = []
    for parts in ([x], list(x.split(MIN_BATCH["fp32"] // 2))):
        model.zero_grad()
        for part in parts:
            model(part).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5 * float(gradients[1].abs().max()))
