"""How fast one network trains, beside a plain loop, both measured in one run.

The plain loop: a DataLoader with one worker that decodes JPEGs from disk and augments them with PIL, fp32,
contiguous layout, direct convolutions, Adam. Ours: whole epochs of capsule.run.Trainer, the images in memory
as uint8, augmented a batch at a time, channels-last, bf16 where the device computes it fast, the large
convolution by spectra on a CPU, fused Adam. Same sizes, frozen layers, loss. They take turns and the fastest
turn of each counts, because other work on the machine can only slow a turn.

    python -m benchmarks.train_throughput                      # the 2-D network, full size, batch 32
    python -m benchmarks.train_throughput --steps 1 --turns 1  # a first look

Prints images/s of both, their ratio, and peak memory.
"""

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.options import add_race_options, at_least_one, machine_parser
from benchmarks.training import TASKS, race
from benchmarks.views_throughput import peak_memory
from capsule.config import run_main
from capsule.device import choose_device
from capsule.step import choose_precision

TASK_OF = {task.name: task for task in TASKS}


def main(arguments=None):
    """Command line. Raises: InputError for a device or precision that is not there."""
    parser = machine_parser("benchmarks.train_throughput", __doc__)
    parser.add_argument("--network", default="2-D", choices=tuple(TASK_OF))
    parser.add_argument("--turns", type=at_least_one, default=2, help="turns of each loop [2]")
    add_race_options(parser, 3, "batches of each loop in a turn [3]")
    options = parser.parse_args(arguments)
    device, task = choose_device(options.device), TASK_OF[options.network]
    precision = choose_precision(device, options.precision)
    with tempfile.TemporaryDirectory() as folder:
        result = race(task, Path(folder), device, options.steps, options.turns, options.batch_size,
                      precision=precision, quick=options.quick, threads=options.threads)
    side, threads = result.config.input_size, torch.get_num_threads()
    print(f"{task.name} network, {side}x{side}, batch {result.config.batch_size}, {device}, "
          f"{threads} CPU threads")
    print(f"plain loop      {result.plain:8.2f} images/s   (fp32)")
    print(f"ours            {result.ours:8.2f} images/s   ({precision})")
    print(f"ratio           {result.ratio:8.2f}")
    print(f"peak memory     {peak_memory(torch.device('cpu')) * 1e6 / 2**30:8.2f} GiB, both loops together")


if __name__ == "__main__":
    run_main(main)
