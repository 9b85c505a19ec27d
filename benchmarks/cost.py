"""What training costs: arithmetic, the machine's peak, a full run, and how the cost grows."""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.generated import NAMES, OFFSETS, configured, generated
from benchmarks.training import PER_CLASS, TASKS, TEST_CLIPS
from capsule.experiment import Experiment
from capsule.loss import me_loss
from capsule.run import Trainer, train_one

COMPOSITE = {"clips": 440, "subjects": 68, "per_class": (248, 109, 83)}     # SPEC section 1
EPOCHS = 30
SUBJECTS_GROWN = 3      # that train in a fold of `growth`
MATRIX = {"cpu": 2048, "cuda": 8192}


def matmul_peak(device, precision, side=None, repeats=5):
    """FLOP/s of the fastest of some products of two square matrices, in "fp32" (on a GPU TF32) or "bf16"."""
    side = side or MATRIX[device.type]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(2, side, side, device=device, dtype=kind)
    products = 10 if device.type == "cuda" else 1
    seconds = []
    for _ in range(1 + repeats):    # the first one warms up
        wait(device)
        started = time.perf_counter()
        for _ in range(products):
            torch.matmul(left, right)
        wait(device)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 * products / min(seconds[1:])


def wait(device):
    """Return when the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops_of_image(task, config, device):
    """FLOPs of training on one image, forward and backward, every convolution counted as a direct one."""
    model = task.network(config).to(device).train()
    # One image is below the batch at which the large convolution is done by spectra.
    inputs = [torch.rand(1, count, config.input_size, config.input_size, device=device)
              for count in task.channels]
    with FlopCounterMode(display=False) as counter:
        me_loss(model(*inputs), torch.zeros(1, dtype=torch.int64, device=device)).backward()
    return counter.get_total_flops()


def composite_passes(per_class=COMPOSITE["per_class"], subjects=COMPOSITE["subjects"], epochs=EPOCHS):
    """Training image passes of a full run with all neighbours on disk (SPEC section 7).

    An epoch of a fold has 5·n_rarest images of each class. Over the folds n_rarest adds up to
    (subjects − 1)·(clips of the rarest class): each clip is missing in one fold.
    """
    return epochs * len(per_class) * len(OFFSETS) * min(per_class) * (subjects - 1)


def full_run_seconds(result):
    """Seconds of 68 folds of 30 epochs on the composite, at the speed of `result` (of `training.race`)."""
    evaluations = EPOCHS * COMPOSITE["clips"] / TEST_CLIPS
    return composite_passes() / result.ours + evaluations * result.evaluation


def growth(folder, device, steps, rounds=2, **options):
    """What a small run costs, and runs with twice the folds, clips and epochs: the fastest of `rounds`.

    The 2-D --quick network on generated data, 3·`steps` batches an epoch.
    Returns: dict name → (images passed in training, seconds).
    """
    runs = {"base": (1, steps, 1), "folds doubled": (2, steps, 1), "clips doubled": (1, 2 * steps, 1),
            "epochs doubled": (1, steps, 2)}
    _run(folder / "warm", device, *runs["base"], **options)
    seconds = {name: [] for name in runs}
    for i in range(rounds):
        for name, size in runs.items():
            seconds[name].append(_run(folder / f"{name} {i}", device, *size, **options))
    return {name: (SUBJECTS_GROWN * PER_CLASS * folds * clips * epochs, min(seconds[name]))
            for name, (folds, clips, epochs) in runs.items()}


def _run(folder, device, folds, steps, epochs, batch_size=15, **options):
    """Seconds of `folds` folds, from the first model to the last file."""
    task = TASKS[0]
    config = configured(folder, quick=True, device=str(device), epochs=epochs, batch_size=batch_size,
                        **options)
    clips, streams = generated([len(NAMES) * steps] * (1 + SUBJECTS_GROWN), task.channels, config.input_size)
    experiment = Experiment(config, clips, {})
    trainer = Trainer(experiment, streams, lambda: task.network(config), me_loss, device, _silent)
    started = time.perf_counter()
    for data_sub in experiment.folds[:folds]:
        state = train_one(experiment, data_sub, trainer)
        if state != "done":
            raise RuntimeError(f"fold {data_sub}: {state}")
    return time.perf_counter() - started


def _silent(data_sub, epoch):
    """Shows no progress."""
