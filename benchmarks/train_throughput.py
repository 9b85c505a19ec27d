"""How fast one network trains, beside a plain loop, both measured in one run.

The plain loop: a DataLoader with one worker that decodes JPEGs from disk and augments them with PIL, fp32,
contiguous layout, direct convolutions, Adam. Ours: whole epochs of capsule.loso.Trainer, the images in memory
as uint8, augmented a batch at a time, channels-last, bf16 where the device computes it fast, the large
convolution by spectra on a CPU, fused Adam. Same sizes, frozen layers, loss. They take turns and the fastest
turn of each counts, because other work on the machine can only slow a turn.

    python benchmarks/train_throughput.py                      # the 2-D network, full size, batch 32
    python benchmarks/train_throughput.py --steps 1 --turns 1  # a first look

Prints images/s of both, their ratio, and peak memory.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.training import TASKS, race
from benchmarks.views_throughput import peak_memory
from capsule.config import run_main
from capsule.device import choose_device
from capsule.step import choose_precision

TASK_OF = {task.name: task for task in TASKS}


def main(arguments=None):
    """Command line. Raises: InputError for a device or precision that is not there."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--network", default="2-D", choices=tuple(TASK_OF))
    parser.add_argument("--steps", type=int, default=3, help="batches of each loop in a turn [3]")
    parser.add_argument("--turns", type=int, default=2, help="turns of each loop [2]")
    parser.add_argument("--batch-size", type=int, help="[the network's script's own: 32 for 2-D, else 16]")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads [0: all cores]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"),
                        help="of our loop [auto]")
    parser.add_argument("--quick", action="store_true", help="the small network on small inputs")
    options = parser.parse_args(arguments)
    device, task = choose_device(options.device), TASK_OF[options.network]
    precision = choose_precision(device, options.precision)
    wanted = {"precision": precision, "quick": options.quick, "threads": options.threads}
    if options.batch_size:
        wanted["batch_size"] = options.batch_size
    with tempfile.TemporaryDirectory() as folder:
        result = race(task, Path(folder), device, options.steps, options.turns, **wanted)
    side, threads = result.config.input_size, torch.get_num_threads()
    print(f"{task.name} network, {side}x{side}, batch {result.config.batch_size}, {device}, "
          f"{threads} CPU threads")
    print(f"plain loop      {result.plain:8.2f} images/s   (fp32)")
    print(f"ours            {result.ours:8.2f} images/s   ({precision})")
    print(f"ratio           {result.ratio:8.2f}")
    print(f"peak memory     {peak_memory(torch.device('cpu')) * 1e6 / 2**30:8.2f} GiB, both loops together")


if __name__ == "__main__":
    run_main(main)
