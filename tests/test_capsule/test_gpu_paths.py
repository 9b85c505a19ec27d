"""What runs differently on a GPU, as far as a CPU can tell: layout, arithmetic, precision."""

import pytest
import torch

from benchmarks.generated import configured, generated
from benchmarks.precision_agreement import compare, differences
from capsule import run as loso
from capsule.device import set_arithmetic, tune_convolutions
from capsule.experiment import Experiment
from capsule.inputs import augment
from capsule.loss import me_loss
from capsule.modules import MECapsuleNet, MECapsuleNetDualCA
from capsule.run import Trainer
from capsule.step import make_step, predict

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIDE = 136


def _network(kind):
    torch.manual_seed(0)
    if kind == "dual":
        return MECapsuleNetDualCA(3, pretrained=False, width=0.125, input_size=(SIDE, SIDE)).double()
    planes = 39 if kind == "3-D" else 3
    return MECapsuleNet((planes, SIDE, SIDE), 3, pretrained=False, width=0.125).double()


def _batch(kind, n=3):
    draws = torch.Generator().manual_seed(1)
    channels = {"2-D": (3,), "3-D": (13,), "dual": (3, 13)}[kind]
    streams = [torch.randint(256, (n, count, SIDE, SIDE), dtype=torch.uint8, generator=draws)
               for count in channels]
    inputs = augment.train_batch(streams, augment.draw(n, draws), SIDE)
    return [images.double() for images in inputs], torch.arange(n) % 3


@pytest.mark.parametrize("kind", ["2-D", "3-D", "dual"])
def test_the_gpus_layout_changes_no_number(kind):
    """The step as a GPU's is set up, channels-last weights and all, on tensors that are on the CPU."""
    inputs, labels = _batch(kind)
    after = {}
    for device in (CPU, GPU):
        model = _network(kind)
        optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3, fused=True)
        step = make_step(model, optimiser, lambda outputs, labels: me_loss(outputs, labels), device, "fp32")
        losses = [step(inputs, labels).item() for _ in range(2)]
        after[device] = losses, model.state_dict(), predict(model, inputs, device, "fp32")
    convolutions = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    wide = [layer.weight for layer in convolutions if min(layer.weight.shape) > 1]
    assert wide and all(w.is_contiguous(memory_format=torch.channels_last) for w in wide)
    (losses, state, outputs), (gpu_losses, gpu_state, gpu_outputs) = after[CPU], after[GPU]
    assert gpu_losses == pytest.approx(losses, rel=1e-6)
    assert torch.allclose(outputs, gpu_outputs, atol=1e-6)
    for name, value in state.items():
        assert torch.allclose(value, gpu_state[name], atol=1e-6), name


@pytest.fixture
def kept_settings(monkeypatch):
    """Everything that set_arithmetic may change is put back."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    threads = torch.get_num_threads()
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags
    torch.backends.cudnn.benchmark = benchmark
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("deterministic", [False, True])
def test_tf32_and_kernel_choice_are_off_when_numbers_must_repeat(deterministic, kept_settings):
    set_arithmetic(GPU, threads=1, deterministic=deterministic)
    assert torch.backends.cuda.matmul.allow_tf32 is not deterministic
    assert torch.backends.cudnn.allow_tf32 is not deterministic
    tune_convolutions(True)
    assert torch.backends.cudnn.benchmark is not deterministic
    tune_convolutions(False)
    assert torch.backends.cudnn.benchmark is False
    assert torch.are_deterministic_algorithms_enabled() is deterministic


def test_a_cpu_run_leaves_cuda_alone(kept_settings):
    torch.backends.cuda.matmul.allow_tf32 = False
    set_arithmetic(CPU, threads=1, deterministic=False)
    assert torch.backends.cuda.matmul.allow_tf32 is False


def test_batches_augmented_together_are_those_augmented_one_by_one(tmp_path, monkeypatch):
    clips, streams = generated([3, 3], channels=(3, 13), size=SIDE)
    config = configured(tmp_path, quick=True, batch_size=4, threads=1)
    trainer = Trainer(Experiment(config, clips, {}), streams, None, me_loss, CPU)
    rows = torch.randperm(len(streams[0]), generator=torch.Generator().manual_seed(2))[:19]
    batches = {}
    for at_once in (1, 8, 100):
        monkeypatch.setitem(loso.AUGMENTED_AT_ONCE, "cpu", at_once)
        batches[at_once] = list(trainer._batches(rows, augment.draw(19, torch.Generator().manual_seed(3))))
    assert [len(labels) for _, labels in batches[1]] == [4, 4, 4, 4, 3]
    for at_once in (8, 100):
        for (inputs, labels), (others, same) in zip(batches[1], batches[at_once], strict=True):
            assert torch.equal(labels, same)
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(inputs, others, strict=True))


def test_bf16_learns_what_fp32_learns():
    """Two folds on pictures that a small network can learn: the same UF1, nearly the same lengths."""
    result = compare(CPU, 1, subjects=2, clips_each=3, epochs=16, batch_size=5, strength=0.9, threads=1)
    (change, others, lengths), = differences(result, 1)[0]
    assert result["uf1"]["fp32", 0] > 0.6
    assert change <= 0.2 and others <= 1 / 6 and 0 < lengths < 0.05
