"""Every benchmark runs whole, at small sizes, and what it counts is right. What it times is not tested."""

import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import cost, spotting_throughput, train_throughput, views_throughput
from benchmarks.generated import configured, generated
from benchmarks.training import TASKS, TEST_CLIPS, PlainData, Task, plain_loop, race, write_pictures
from capsule.data.synthetic import make_synthetic
from capsule.inputs.sampling import data_split, sample_data

CPU = torch.device("cpu")
SMALL = ("--device", "cpu", "--threads", "1")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_generated_clips_have_all_their_frames_and_learnable_pictures():
    clips, (crops, views) = generated([2, 3], (3, 13), size=32)
    assert clips.subjects == ("synthetic_sub00", "synthetic_sub01")
    assert clips.labels.tolist() == [0, 1, 0, 1, 2]
    assert crops.images.shape == (25, 3, 32, 32) and views.images.shape == (25, 13, 32, 32)
    assert (crops.kind, views.kind) == ("crop", "views") and crops.images.dtype == torch.uint8
    assert (crops.offset == 0).sum() == 5 and len(set(crops.names)) == 25
    apexes = crops.images[2::5].float()

    def distance(a, b):
        return (apexes[a] - apexes[b]).abs().mean()

    assert distance(0, 2) < distance(0, 1)    # the same class


@pytest.mark.parametrize("steps", [1, 3])
def test_an_epoch_has_about_so_many_batches(steps):
    per_class = max(1, round(steps * 32 / 15))
    clips, (crops,) = generated([TEST_CLIPS, 3 * per_class], size=8)
    train, test = data_split(clips, clips.subjects[0])
    rows = sample_data(clips, crops, train, torch.Generator().manual_seed(0))
    assert len(rows) == 15 * per_class and abs(len(rows) - 32 * steps) <= 8 and len(test) == TEST_CLIPS


def test_the_plain_loop_reads_what_ours_holds(tmp_path):
    config = configured(tmp_path, quick=True)
    _, streams = generated([4], (3, 13), config.input_size)
    data = PlainData(write_pictures(tmp_path, streams), (3, 13), config.input_size, length=6)
    data.transform = lambda pictures: pictures
    (crop, views), label = data[5]    # goes round: the second clip
    assert crop.shape == (3, 152, 152) and views.shape == (39, 152, 152) and label == 5 % 3
    assert torch.allclose(crop, streams[0].images[7] / 255, atol=0.1)
    grey = views.unflatten(0, (13, 3))
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert torch.allclose(grey[:, 0], streams[1].images[7] / 255, atol=0.1)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_plain_network_is_ours_convolved_directly(task, tmp_path, monkeypatch):
    made = []
    network = task.network
    monkeypatch.setattr(Task, "network", lambda self, config: made.append(network(config)) or made[-1])
    config = configured(tmp_path, quick=True, batch_size=2)
    _, streams = generated([3], task.channels, config.input_size)
    turn = plain_loop(task, config, write_pictures(tmp_path, streams), CPU)
    assert type(made[0].conv1) is torch.nn.Conv2d and turn(1) > 0


def test_flops_are_those_of_direct_convolutions(tmp_path):
    """By hand: a network of one convolution, forward and the gradient of its weights (not of its input)."""
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 5, bias=False)

        def forward(self, x):
            return self.conv(x).mean((2, 3))[:, :3]

    task = SimpleNamespace(network=lambda config: Network(), channels=(3,))
    config = configured(tmp_path, quick=True)
    assert cost.flops_of_image(task, config, CPU) == 2 * (2 * 148 * 148 * 4 * 3 * 25)
    two_d, three_d, dual = (cost.flops_of_image(task, config, CPU) for task in TASKS)
    assert two_d < three_d < dual


def test_the_composite_counts_two_and_a_half_million_passes():
    assert cost.composite_passes() == 30 * 15 * 83 * 67 == 2_502_450
    assert cost.composite_passes((10, 4, 2), subjects=2, epochs=3) == 3 * (5 * 2 * 3) * 1
    result = SimpleNamespace(ours=100.0, evaluation=0.7)
    assert cost.full_run_seconds(result) == pytest.approx(25024.5 + 30 * 440 * 0.1)


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (119, "119.0 s"), (720, "12.0 min"),
                                               (7199, "120.0 min"), (90000, "25.0 h")])
def test_durations(seconds, text):
    assert bench.duration(seconds) == text


def test_a_race_times_both_loops_and_the_evaluations(tmp_path):
    result = race(TASKS[0], tmp_path, CPU, steps=1, turns=2, quick=True, threads=1, batch_size=4)
    assert min(result.ours, result.plain, result.evaluation) > 0
    assert result.ratio == result.ours / result.plain and result.config.epochs == 3


def test_make_bench(capsys):
    bench.main([*SMALL, "--quick", "--steps", "1", "--batch-size", "4", "--precision", "fp32"])
    lines = capsys.readouterr().out.splitlines()
    table = {line[:42].strip(): line[42:].split() for line in lines}
    assert table["batch"] == ["4", "4", "4"]
    for name in ("images/s of training, ours (fp32)", "images/s of training, plain loop (fp32)", "ratio"):
        assert len(table[name]) == 3 and min(map(float, table[name])) > 0
    assert len(table["share of the fp32 matmul peak"]) == 6    # three numbers, three "%"
    assert table["matmul peak, TFLOP/s"][::2] == ["bf16", "fp32"]
    grown = {line[:22].strip(): line[22:].split() for line in lines[-5:]}
    assert [grown[f"{what} doubled"][0] for what in ("folds", "clips", "epochs")] == ["90"] * 3
    assert grown["base"][0] == "45" and grown["base"][2] == "1.00"


@pytest.mark.parametrize("options", [("--steps", "0"), ("--batch-size", "-1")])
def test_sizes_below_one_are_refused(options, capsys):
    with pytest.raises(SystemExit) as end:
        bench.main([*SMALL, *options])
    assert end.value.code == 2 and "must be at least 1" in capsys.readouterr().err


def test_views(monkeypatch, capsys):
    monkeypatch.setattr(views_throughput.importlib.util, "find_spec", lambda name: None)    # seconds a view
    assert views_throughput.main(["--device", "cpu", "--frames", "1", "--repeats", "1"]) == 0
    assert "views/s" in capsys.readouterr().out


@pytest.mark.parametrize("network", ["2-D", "dual"])
def test_one_network_beside_the_plain_loop(network, capsys):
    size = ("--quick", "--steps", "1", "--turns", "1", "--batch-size", "2")
    train_throughput.main(["--network", network, *size, *SMALL])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{network} network, 152x152, batch 2")
    assert [line.split()[0] for line in lines[1:4]] == ["plain", "ours", "ratio"]


def test_spotting(tmp_path, monkeypatch, capsys):
    make_synthetic(tmp_path, subjects=1, clips=1, frames=(7, 7))
    monkeypatch.setattr(sys, "argv", ["spotting", "--data-root", str(tmp_path), "--clips", "1"])
    spotting_throughput.main()
    out = capsys.readouterr().out
    assert "1 clips, 7 frames" in out and "followed:" in out and "ratio" in out
