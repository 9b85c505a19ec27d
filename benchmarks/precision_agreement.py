"""Does bf16 give what fp32 gives? Both train the same folds from the same seeds; seeds show the noise.

    python -m benchmarks.precision_agreement [--device auto] [--seeds 3]

Small networks on generated pictures, hard enough that not every clip is recognised. Prints UF1 for each seed
and precision, the difference that precision makes, and the difference that another seed makes.
"""

import itertools
import tempfile

import numpy as np

from benchmarks.generated import configured, generated
from benchmarks.options import machine_parser
from benchmarks.training import TASKS
from capsule.config import run_main
from capsule.device import choose_device
from capsule.evaluations import Meter
from capsule.experiment import Experiment, fold_seed
from capsule.loss import me_loss
from capsule.run import Trainer

SUBJECTS, CLIPS, EPOCHS, BATCH, LEARNING_RATE = 4, 6, 8, 9, 3e-4
STRENGTH = 0.45     # of the class's pattern in a picture
PRECISIONS = ("fp32", "bf16")


def lengths_of(precision, seed, device, subjects=SUBJECTS, clips_each=CLIPS, epochs=EPOCHS, batch_size=BATCH,
               strength=STRENGTH, threads=0):
    """Train every fold on generated pictures. Returns: labels (n,), strict capsule lengths (n, 3), arrays."""
    with tempfile.TemporaryDirectory() as folder:
        config = configured(folder, device=str(device), precision=precision, epochs=epochs, quick=True,
                            batch_size=batch_size, learning_rate=LEARNING_RATE, seed=seed, threads=threads)
        clips, streams = generated([clips_each] * subjects, TASKS[0].channels, config.input_size, strength)
        trainer = Trainer(Experiment(config, clips, {}), streams, lambda: TASKS[0].network(config), me_loss,
                          device, report=lambda data_sub, epoch: None)
        results = [trainer.train(data_sub, fold_seed(seed, data_sub))[0] for data_sub in clips.subjects]
    return (np.concatenate([result["y_true"] for result in results]),
            np.concatenate([result["lengths"] for result in results]))


def uf1(labels, lengths):
    """Pooled UF1 of the longest capsules."""
    meter = Meter(lengths.shape[1])
    meter.add(labels, lengths.argmax(1))
    return meter.uf1


def compare(device, seeds, **size):
    """dict: labels (n,); `lengths`, (precision, seed) → (n, 3); `uf1`, the same keys → float."""
    lengths = {}
    for seed, precision in itertools.product(range(seeds), PRECISIONS):
        labels, lengths[precision, seed] = lengths_of(precision, seed, device, **size)
    return {"labels": labels, "lengths": lengths,
            "uf1": {key: uf1(labels, value) for key, value in lengths.items()}}


def differences(result, seeds):
    """Two lists of (difference in UF1, share of other predictions, mean difference of the lengths).

    The first: bf16 against fp32, seed by seed. The second: fp32 from one seed against fp32 from another.
    """
    def between(one, other):
        a, b = result["lengths"][one], result["lengths"][other]
        return (abs(result["uf1"][one] - result["uf1"][other]), (a.argmax(1) != b.argmax(1)).mean(),
                abs(a - b).mean())

    by_precision = [between(("fp32", seed), ("bf16", seed)) for seed in range(seeds)]
    by_seed = [between(("fp32", a), ("fp32", b)) for a, b in itertools.combinations(range(seeds), 2)]
    return by_precision, by_seed


def main(arguments=None):
    """Command line."""
    parser = machine_parser("benchmarks.precision_agreement", __doc__)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2 [3]")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("--seeds must be at least 2")
    result = compare(choose_device(options.device), options.seeds, threads=options.threads)
    print(f"{len(result['labels'])} clips, {SUBJECTS} folds of {EPOCHS} epochs\nUF1     " +
          "".join(f"{f'seed {seed}':>9}" for seed in range(options.seeds)))
    for precision in PRECISIONS:
        print(f"{precision:<8}" + "".join(f"{result['uf1'][precision, seed]:>9.3f}"
                                          for seed in range(options.seeds)))
    names = ("bf16 against fp32", "a seed against another")
    for name, found in zip(names, differences(result, options.seeds), strict=True):
        change, others, lengths = np.mean(found, axis=0)
        print(f"{name:<23} UF1 differs by {change:.3f}, predictions by {100 * others:.1f} %, "
              f"lengths by {lengths:.4f} (means)")


if __name__ == "__main__":
    run_main(main)
