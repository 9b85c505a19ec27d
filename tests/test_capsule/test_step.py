"""The training step: what it changes, and that bf16 is close to fp32."""

import pytest
import torch

from capsule.loss import me_loss
from capsule.modules import MECapsuleNet
from capsule.step import choose_precision, make_step, predict
from common.errors import InputError

CPU = torch.device("cpu")
SIDE = 136


def network(seed=0):
    torch.manual_seed(seed)
    return MECapsuleNet((3, SIDE, SIDE), 3, pretrained=False, width=0.125)


def optimiser_of(model, rate=1e-3):
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate, fused=True)


def batch(n=6):
    """Noise that is brighter in one channel, the class's."""
    labels = torch.arange(n) % 3
    images = 0.5 * torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    images[torch.arange(n), labels] += 0.5
    return [images], labels


def test_a_step_is_the_plain_one():
    inputs, labels = batch()
    ours, plain = network(), network()
    step = make_step(ours, optimiser_of(ours), me_loss, CPU, "fp32")
    optimiser = optimiser_of(plain)
    for _ in range(2):
        value = step(inputs, labels)
        expected = me_loss(plain(*inputs), labels)
        optimiser.zero_grad()
        expected.backward()
        optimiser.step()
        assert value.item() == pytest.approx(expected.item(), rel=1e-4)
        assert not value.requires_grad


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_learn_a_batch_and_leave_it_as_it_was(precision):
    inputs, labels = batch()
    kept = inputs[0].clone()
    model = network()
    step = make_step(model, optimiser_of(model, 3e-3), me_loss, CPU, precision)
    losses = [step(inputs, labels).item() for _ in range(40)]
    assert losses[-1] < 0.6 * losses[0]
    assert torch.equal(inputs[0], kept)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_bf16_gradients_point_where_fp32_gradients_do():
    inputs, labels = batch()
    gradients = []
    for precision in ("fp32", "bf16"):
        model = network()
        make_step(model, torch.optim.SGD(model.parameters(), lr=0.0), me_loss, CPU, precision)(inputs, labels)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


def test_prediction_draws_on_no_training_behaviour():
    inputs, _ = batch()
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again = predict(model, inputs, CPU, "fp32"), predict(model, inputs, CPU, "fp32")
    assert torch.equal(first, again) and first.dtype == torch.float32 and not first.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.allclose(predict(model, inputs, CPU, "bf16"), first, atol=0.05)


def test_precision_follows_the_cpu(monkeypatch):
    for capabilities, expected in (({"avx512_bf16": True}, "bf16"), ({"avx2": True}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda value=capabilities: value)
        assert choose_precision(CPU, "auto") == expected
        assert choose_precision(CPU, "fp32") == "fp32" and choose_precision(CPU, "bf16") == "bf16"
    with pytest.raises(InputError, match="fp16"):
        choose_precision(CPU, "fp16")


def test_precision_follows_the_gpu(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    for has_bf16, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has_bf16: has)
        assert choose_precision(gpu, "auto") == expected
    with pytest.raises(InputError, match="Old GPU"):
        choose_precision(gpu, "bf16")
