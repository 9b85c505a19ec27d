"""The step that a GPU plays back, and a network that begins anew."""

import pytest
import torch

from benchmarks.generated import generated
from capsule import learner as learner_module
from capsule.device import set_arithmetic
from capsule.fold import Pictures, Training, train_fold
from capsule.learner import Learner, is_compiled
from capsule.modules import network

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def training(net, **changes):
    return Training(**{"network": net, "epochs": 2, "batch_size": 6, "learning_rate": 1e-3, "lr_decay": 0.8,
                       "seed": 9, "precision": "fp32", "threads": 1, **changes})


def fresh(net, seed=0):
    torch.manual_seed(seed)
    return net.make([3])[0]


def batches(device, side, count=4):
    noise = torch.Generator().manual_seed(1)
    return [([torch.rand(6, 3, side, side, generator=noise).to(device)],
             torch.randint(3, (6,), generator=noise).to(device)) for _ in range(count)]


def learn(learner, device):
    learner.model.train()
    losses = [float(learner.learn(*batch)[1]) for batch in batches(device, learner.training.network.side)]
    return losses, {name: value.clone() for name, value in learner.model.state_dict().items()}


def same(one, other):
    return one[0] == other[0] and all(torch.equal(value, other[1][name]) for name, value in one[1].items())


@pytest.mark.parametrize("device", [CPU, pytest.param(torch.device("cuda"), marks=needs_gpu)])
@pytest.mark.parametrize("name", ["STSTNet", "MotionCapsuleNet", "resnet"])
def test_a_network_that_begins_anew_forgets_everything(name, device):
    net = network(name, 3, quick=True)
    set_arithmetic(device, 1, deterministic=True)
    try:
        learner = Learner(fresh(net, 5), training(net, deterministic=True), device)
        learn(learner, device)
        learner.set_rate(1e-5)
        torch.manual_seed(3)
        learner.restart(fresh(net))
        torch.manual_seed(4)        # dropout
        again = learn(learner, device)
        first = Learner(fresh(net), training(net, deterministic=True), device)
        torch.manual_seed(4)
        assert same(again, learn(first, device)) and learner.rate == first.rate == 1e-3
    finally:
        torch.use_deterministic_algorithms(False)


@needs_gpu
def test_the_recorded_step_is_the_step():
    """Losses fall alike; dropout aside, a recorded step computes what the plain one does."""
    net, device = network("resnet", 3, quick=True), torch.device("cuda")
    set_arithmetic(device, 1, deterministic=True)
    try:
        played = Learner(fresh(net), training(net, deterministic=True), device)
        recorded, _ = learn(played, device)
        plain = Learner(fresh(net), training(net), device)
        plain.model.train()
        losses = [float(plain._step(*batch)[1]) for batch in batches(device, net.side)]
        assert recorded == pytest.approx(losses, rel=1e-4) and losses[-1] != losses[0]
    finally:
        torch.use_deterministic_algorithms(False)


@needs_gpu
def test_folds_do_not_depend_on_those_before():
    net, device = network("resnet", 3, quick=True), torch.device("cuda")
    clips, streams = generated([3, 3, 3], size=net.side)
    plan = training(net, deterministic=True)
    both, one = Pictures(clips, streams, net, device), Pictures(clips, streams, net, device)
    try:
        train_fold(both, clips.subjects[0], plan)
        after, alone = (train_fold(pictures, clips.subjects[1], plan)[0] for pictures in (both, one))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(after[name] == alone[name] for name in ("loss", "lengths", "strict", "paper"))


@pytest.mark.parametrize("able", [True, False])
def test_what_is_compiled(able, monkeypatch):
    monkeypatch.setattr(learner_module, "can_compile", lambda: able)
    full, quick = network("resnet", 3, pretrained=False), network("resnet", 3, quick=True)
    gpu = torch.device("cuda")
    assert is_compiled(training(full), gpu) is able
    assert not any((is_compiled(training(full), CPU), is_compiled(training(quick), gpu),
                    is_compiled(training(full, deterministic=True), gpu)))
