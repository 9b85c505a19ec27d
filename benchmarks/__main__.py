"""What the project costs on this machine: one table, and one that shows how the cost grows.

    python -m benchmarks            # full size; about three minutes on two CPU cores
    python -m benchmarks --quick    # small networks, a first look; these are not the project's figures

Training is measured in whole epochs of capsule.fold (sampling, augmentation, steps, evaluation), data in
memory, beside a plain loop (DataLoader with one worker, JPEGs, PIL, fp32, no evaluation) that takes turns
with it. The share of the peak counts every convolution as a direct one; on a CPU it can pass 100 %: the
largest one is computed by spectra there, with far fewer products. The estimate of the full run is for folds
one after the other. Views: face crop to thirteen views with the face mesh.
"""

import argparse
import platform
import resource
import tempfile
import time

import numpy as np
import torch
from skimage.data import astronaut
from tqdm import tqdm

from benchmarks.training import COMPOSITE_PASSES, TASKS, growth, matmul_peak, race, wait
from capsule.config import run_main
from capsule.device import choose_device, choose_precision, set_arithmetic
from capsule.inputs.crops import clip_square
from deca import make_reconstructor
from deca.landmarks import LandmarkDetector, warp_square

# 39 batches of 32: an epoch of the composite
STEPS, TURNS = {"cpu": 1, "cuda": 39}, {"cpu": 2, "cuda": 3}
MATRIX, FRAMES = {"cpu": 2048, "cuda": 8192}, {"cpu": 5, "cuda": 100}


def views_speed(device, frames, repeats=3):
    """{paint: views/s} of the face mesh on crops of scikit-image's astronaut, crop to pictures."""
    center, side, _ = clip_square(astronaut(), LandmarkDetector())
    crop = warp_square(astronaut(), center, side).transpose(2, 0, 1)
    pictures, maker, found = np.stack([crop] * frames), make_reconstructor("mesh", str(device)), {}
    for paint in ("shape_detail", "texture"):
        seconds = []
        for _ in range(1 + repeats):
            wait(device)
            started = time.perf_counter()
            maker.views(pictures, paint)
            wait(device)
            seconds.append(time.perf_counter() - started)
        found[paint] = 13 * frames / min(seconds[1:])
    return found


def first_table(results, peaks, precision, views):
    """The lines of the first table."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss    # KiB
    rows = {
        "": [r.task.name for r in results],
        "batch": [r.task.batch_size for r in results],
        f"images/s of training, ours ({precision})": [f"{r.ours:.2f}" for r in results],
        "images/s of training, plain loop (fp32)": [f"{r.plain:.2f}" for r in results],
        "ratio": [f"{r.ours / r.plain:.2f}" for r in results],
        "GFLOP an image": [f"{r.flops / 1e9:.1f}" for r in results],
        f"share of the {precision} matmul peak": [f"{100 * r.ours * r.flops / peaks[precision]:.0f} %"
                                                  for r in results],
        "composite, 68 folds of 30 epochs": [f"{COMPOSITE_PASSES / r.ours / 3600:.1f} h" for r in results],
        "GPU memory in an epoch, GiB": [f"{r.memory / 2**30:.2f}" for r in results if r.memory],
        "matmul peak, TFLOP/s": [f"{kind} {most / 1e12:.3g}" for kind, most in peaks.items()],
        "views/s of the face mesh": [f"{paint.split('_')[0]} {speed:.0f}" for paint, speed in views.items()],
        "peak memory of this process, GiB": [f"{peak / 2**20:.2f}"],
    }
    lines = [f"{name:<42}" + "".join(f"{value:>13}" for value in values) for name, values in rows.items()]
    return [line for line, values in zip(lines, rows.values(), strict=True) if values]


def second_table(runs):
    """The lines of the table of growth."""
    base = runs["base"][1]
    lines = [f"{'2-D --quick network':<22}{'images':>9}{'seconds':>9}{'x base':>8}"]
    return lines + [f"{name:<22}{images:>9}{seconds:>9.2f}{seconds / base:>8.2f}"
                    for name, (images, seconds) in runs.items() if name != "warm-up"]


def main(arguments=None):
    """Command line. Raises: InputError for a device or precision that is not there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads [0: all cores]")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"),
                        help="of our loop [auto]")
    parser.add_argument("--quick", action="store_true", help="small networks, inputs and matrices")
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    set_arithmetic(device, options.threads)
    precision = choose_precision(device, options.precision)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() + " CPU"
    print(f"{name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
          + (", --quick: small networks" if options.quick else ""), flush=True)
    side = 512 if options.quick else MATRIX[device.type]
    peaks = {kind: matmul_peak(device, kind, side) for kind in ("bf16", "fp32")}
    views = views_speed(device, 1 if options.quick else FRAMES[device.type])
    results = []
    for task in tqdm(TASKS, unit="network", disable=None):
        with tempfile.TemporaryDirectory() as folder:
            results.append(race(task, folder, device, precision, STEPS[device.type], TURNS[device.type],
                                options.quick, options.threads))
    print("\n" + "\n".join(first_table(results, peaks, precision, views)), flush=True)
    runs = growth(device, precision, 1 if options.quick else 3)
    print("\n" + "\n".join(second_table(runs)))


if __name__ == "__main__":
    run_main(main)
