"""One fold: the step, its precision and layout, what is recorded, and what the held-out labels may not
reach."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks.generated import generated
from capsule import fold
from capsule.config import Options
from capsule.device import choose_precision, set_arithmetic, tune_convolutions
from capsule.experiment import Experiment
from capsule.fold import FoldError, Pictures, Training, batches, predict, train_fold, train_one
from capsule.inputs import augment
from capsule.learner import Learner
from capsule.loss import me_loss
from capsule.modules import MECapsuleNet, network
from common.errors import InputError

CPU, SIDE = torch.device("cpu"), 136
NET = network("resnet", 3, quick=True)
SMALL_NET = network("STSTNet", 3)


def small_network(seed=0):
    torch.manual_seed(seed)
    return MECapsuleNet((3, SIDE, SIDE), 3, pretrained=False, width=0.125)


def learner(model, precision="fp32", rate=1e-3):
    return Learner(model.train(), training(learning_rate=rate, precision=precision), CPU)


def batch(n=6):
    """Noise that is brighter in one channel, the class's."""
    labels = torch.arange(n) % 3
    images = 0.5 * torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    images[torch.arange(n), labels] += 0.5
    return [images], labels


@pytest.fixture(scope="module")
def data():
    clips, streams = generated([3, 3, 3], size=152)
    return Pictures(clips, streams, NET, CPU)


@pytest.fixture(scope="module")
def small_data():
    clips, streams = generated([3, 3, 3], size=28)
    return Pictures(clips, streams, SMALL_NET, CPU)


def training(**changes):
    return replace(Training(NET, 2, 8, 5e-4, 0.8, 9, "fp32", 1), **changes)


def test_each_epoch_shuffles_its_pictures_anew(data, monkeypatch):
    orders = []
    monkeypatch.setattr(fold.sampling, "sample_data", lambda *given: torch.arange(6))
    monkeypatch.setattr(fold, "_train_epoch", lambda learner, pictures, rows, generator: (
        orders.append(rows.tolist()), (0.5, fold.Meter(3)))[1])
    train_fold(data, data.clips.subjects[0], training())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(6))
    assert orders[0] != orders[1] and list(range(6)) not in orders


def test_every_step_of_every_epoch_is_with_dropout(small_data, monkeypatch):
    """Also after the first epoch's predictions, which are without."""
    modes, learn = [], Learner.learn
    monkeypatch.setattr(fold.sampling, "sample_data", lambda *given: torch.arange(6))
    monkeypatch.setattr(Learner, "learn", lambda self, *given: (modes.append(self.model.training),
                                                                learn(self, *given))[1])
    train_fold(small_data, small_data.clips.subjects[0], training(network=SMALL_NET, batch_size=3))
    assert modes == [True] * 4      # 2 epochs of 6 pictures, 3 a batch


def test_the_loss_of_an_epoch_is_the_mean_over_its_pictures_not_its_batches(small_data):
    losses = {4: 1.0, 2: 4.0}       # of a batch of 4 and one of 2 pictures: (4·1 + 2·4) / 6
    learns = SimpleNamespace(model=torch.nn.Identity(), training=training(network=SMALL_NET, batch_size=4),
                             learn=lambda inputs, truth: (torch.eye(3)[truth],
                                                          torch.tensor(losses[len(truth)])))
    loss, meter = fold._train_epoch(learns, small_data, torch.arange(6), torch.Generator())
    assert loss == 2.0 and meter.accuracy == 1.0


def test_each_epoch_augments_its_pictures_anew(small_data, monkeypatch):
    drawn, draw = [], augment.draw
    monkeypatch.setattr(fold.sampling, "sample_data", lambda *given: torch.arange(6))
    monkeypatch.setattr(augment, "draw", lambda *given: (drawn.append(draw(*given)), drawn[-1])[1])
    train_fold(small_data, small_data.clips.subjects[0], training(network=SMALL_NET))
    first, second = drawn
    assert len(first.angle) == len(second.angle) == 6
    assert all((getattr(first, name) != getattr(second, name)).any() for name in vars(first))


def test_another_seed_gives_another_order_other_augmentation_and_other_first_weights(small_data, monkeypatch):
    began = []
    monkeypatch.setattr(fold.sampling, "sample_data", lambda *given: torch.arange(12))
    monkeypatch.setattr(fold, "_train_epoch", lambda learner, pictures, rows, generator: (
        began.append((rows.tolist(), augment.draw(12, generator).angle.tolist(),
                      learner.model.conv1.weight.flatten().tolist())), (0.5, fold.Meter(3)))[1])
    for seed in (9, 9, 10):
        train_fold(small_data, small_data.clips.subjects[0], training(network=SMALL_NET, seed=seed, epochs=1))
    first, again, other = began
    assert first == again and all(one != another for one, another in zip(first, other, strict=True))


@pytest.mark.parametrize("kind, calls", [("crop", 4), ("motion", 0)])
def test_the_paper_evaluation_turns_crops_and_is_the_strict_one_for_motion(kind, calls, monkeypatch):
    """3 held-out clips, 2 a batch: 2 batches in each of 2 epochs."""
    clips, streams = generated([3, 3, 3], size=28)
    pictures = Pictures(clips, [replace(streams[0], kind=kind)], SMALL_NET, CPU)
    kinds, evaluate = [], augment.paper_eval_batch
    monkeypatch.setattr(fold, "PREDICT_BATCH", 2)
    monkeypatch.setattr(augment, "paper_eval_batch", lambda images, names, *others: (
        kinds.append(names), evaluate(images, names, *others))[1])
    result, _ = train_fold(pictures, clips.subjects[0], training(network=SMALL_NET))
    assert kinds == [[kind]] * calls
    assert kind == "crop" or result["paper"] == result["strict"]


def test_a_step_is_the_plain_one_and_leaves_its_input():
    inputs, labels = batch()
    kept = inputs[0].clone()
    ours, plain = small_network(), small_network()
    learns = learner(ours)
    learns.optimiser, plain_optimiser = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (ours, plain))
    for _ in range(2):
        outputs, loss = learns.learn(inputs, labels)
        expected = me_loss(plain(*inputs), labels)
        plain_optimiser.zero_grad()
        expected.backward()
        plain_optimiser.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        assert outputs.shape == (6, 3) and not outputs.requires_grad and not loss.requires_grad
    assert torch.equal(inputs[0], kept)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_learn_a_batch(precision):
    inputs, labels = batch()
    model = small_network()
    learns = learner(model, precision, 3e-3)
    losses = [learns.learn(inputs, labels)[1].item() for _ in range(40)]
    assert losses[-1] < 0.6 * losses[0] and all(p.dtype == torch.float32 for p in model.parameters())


def test_bf16_gradients_point_where_fp32_gradients_do():
    inputs, labels = batch()
    gradients = []
    for precision in ("fp32", "bf16"):
        model = small_network()
        learner(model, precision, 0.0).learn(inputs, labels)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95


def test_a_fold_is_recorded_and_repeats_itself(data):
    epochs = []
    first, _ = train_fold(data, "synthetic_sub01", training(), epochs.append)
    again, model = train_fold(data, "synthetic_sub01", training())
    assert {k: v for k, v in first.items() if "second" not in k} == {k: v for k, v in again.items()
                                                                     if "second" not in k}
    assert [clip["subject"] for clip in first["clips"]] == ["sub01"] * 3 and first["y_true"] == [0, 1, 2]
    assert len(first["loss"]) == len(first["paper"]) == len(first["strict"]) == len(first["train_uf1"]) == 2
    assert first["step"] == "eager"
    assert first["strict"][-1] == [max(range(3), key=row.__getitem__) for row in first["lengths"]]
    assert first["weights"] == "none"
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx([5e-4, 4e-4])    # that of the epoch
    assert [epoch.number for epoch in epochs] == [1, 2] and epochs[1].loss == first["loss"][1]
    rows = fold.sampling.apex_rows(data.index, torch.arange(3, 6).numpy())
    (scores,) = predict(model, data, rows, training())
    assert torch.allclose(scores, torch.tensor(first["lengths"]), atol=1e-5)
    assert fold.fold_seed(9, "a") != fold.fold_seed(10, "a") != fold.fold_seed(10, "b")


def test_the_held_out_labels_reach_nothing(data):
    table = data.clips.table
    mine = table["data_sub"] == "synthetic_sub01"
    permuted = replace(data.clips, table=table.assign(label=table["label"].where(~mine,
                                                                                 (table["label"] + 1) % 3)))
    stream = replace(data.index, clips=permuted)
    other = Pictures(permuted, [stream], NET, CPU)
    first, second = (train_fold(p, "synthetic_sub01", training())[0] for p in (data, other))
    assert first["y_true"] != second["y_true"]
    for name in ("paper", "strict", "lengths", "loss", "train_uf1"):
        assert first[name] == second[name]


def test_a_loss_that_is_no_number_is_named(data, monkeypatch):
    monkeypatch.setattr(fold, "_train_epoch", lambda *arguments: (math.nan, None))
    with pytest.raises(FoldError, match="the loss is nan in epoch 1"):
        train_fold(data, "synthetic_sub00", training())


def test_outputs_that_are_no_numbers_after_a_last_step_are_named(data):
    with pytest.raises(FoldError, match="outputs are no numbers after epoch 1"):
        train_fold(data, "synthetic_sub00", training(epochs=1, batch_size=64, learning_rate=1e30))


def test_a_fold_from_other_weights_than_the_experiment_is_not_kept(data, tmp_path):
    """A machine of a cluster may lack the ImageNet weights that the first one found."""
    options = Options(script="t", dataset="synthetic", data_root=".", result_root=str(tmp_path),
                      tensorboard=False)
    experiment = Experiment(options, data.clips, [data.index], NET, "ImageNet", "fp32")
    experiment.start()
    with pytest.raises(InputError, match="began with weights none, the experiment with ImageNet"):
        train_one(experiment, "synthetic_sub00", data, training(epochs=1), lambda epoch: None)
    assert not experiment.fold_path("synthetic_sub00").exists()


def test_an_svm_needs_two_classes():
    clips, streams = generated([3, 3], size=28)
    clips = replace(clips, table=clips.table.assign(label=clips.table["subject"].eq("sub00").astype(int)))
    net = network("SVM", 3)
    pictures = Pictures(clips, [replace(streams[0], clips=clips)], net, CPU)
    with pytest.raises(FoldError, match="all of one class"):
        train_fold(pictures, "synthetic_sub00", training(network=net))


def test_batches_augmented_together_are_those_augmented_one_by_one(monkeypatch):
    clips, streams = generated([3, 3], channels=(3, 13), size=SIDE)
    data = Pictures(clips, streams, NET, CPU)
    rows = torch.randperm(len(streams[0]), generator=torch.Generator().manual_seed(2))[:19]
    found = {}
    for at_once in (1, 8, 100):
        monkeypatch.setitem(fold.AUGMENTED_AT_ONCE, "cpu", at_once)
        found[at_once] = list(batches(data, rows, augment.draw(19, torch.Generator().manual_seed(3)), 4))
    assert [len(labels) for _, labels in found[1]] == [4, 4, 4, 4, 3]
    for at_once in (8, 100):
        for (inputs, labels), (others, same) in zip(found[1], found[at_once], strict=True):
            assert torch.equal(labels, same)
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(inputs, others, strict=True))


def test_precision_follows_the_device(monkeypatch):
    for capabilities, expected in (({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda value=capabilities: value)
        assert choose_precision(CPU, "auto") == expected
        assert choose_precision(CPU, "fp32") == "fp32" and choose_precision(CPU, "bf16") == "bf16"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: [(9, 0), (7, 5)][device.index])
    assert [choose_precision(torch.device("cuda", i), "auto") for i in (0, 1)] == ["bf16", "fp32"]
    with pytest.raises(InputError, match="Old GPU"):
        choose_precision(torch.device("cuda", 1), "bf16")


@pytest.mark.parametrize("deterministic", [False, True])
def test_tf32_and_kernel_choice_are_off_when_numbers_must_repeat(deterministic, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads = torch.get_num_threads()
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        set_arithmetic(torch.device("cuda"), threads=1, deterministic=deterministic)
        assert torch.backends.cuda.matmul.allow_tf32 is not deterministic and torch.get_num_threads() == 1
        tune_convolutions(True)
        assert torch.backends.cudnn.benchmark is not deterministic
        assert torch.are_deterministic_algorithms_enabled() is deterministic
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags
        torch.use_deterministic_algorithms(False)
        tune_convolutions(False)
