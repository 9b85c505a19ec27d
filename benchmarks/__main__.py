"""What the project costs on this machine: one table, and one that shows how the cost grows.

    python -m benchmarks            # full size; about three minutes on two CPU cores
    python -m benchmarks --quick    # small networks, a first look; these are not the project's figures

Training is measured in whole epochs of capsule.run.Trainer (sampling, augmentation, steps), data in memory,
beside a plain loop (DataLoader with one worker, JPEGs, PIL, fp32) that takes turns with it; evaluation is
measured by itself. The share of the peak counts every convolution as a direct one; on a CPU it can pass
100 %: the largest one is computed by spectra there, with far fewer products. The estimate of the full run is
for folds one after the other.
"""

import platform
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.cost import (
    COMPOSITE,
    EPOCHS,
    composite_passes,
    flops_of_image,
    full_run_seconds,
    growth,
    matmul_peak,
)
from benchmarks.generated import OFFSETS, configured
from benchmarks.options import add_race_options, machine_parser
from benchmarks.training import TASKS, race
from benchmarks.views_throughput import FRAMES, peak_memory, random_frames
from benchmarks.views_throughput import measure as seconds_of_views
from capsule.config import run_main
from capsule.device import choose_device, set_arithmetic
from capsule.step import choose_precision
from deca.renderer import YAWS, Renderer
from deca.sample_head import sample_head

STEPS = {"cpu": 1, "cuda": 39}      # 39 batches of 32: an epoch of the composite
TURNS = {"cpu": 2, "cuda": 3}
GROWTH_STEPS = {"cpu": 2, "cuda": 20}
QUICK_MATRIX = 512


def measure(device, precision, steps, batch_size=None, quick=False, threads=0):
    """Every figure of the first table, a dict; `race` has the results of the three tasks.

    batch_size: None for each task's own. quick: the small networks, few views, small matrices.
    """
    options = {"precision": precision, "quick": quick, "threads": threads}
    peaks = {kind: matmul_peak(device, kind, QUICK_MATRIX if quick else None) for kind in ("bf16", "fp32")}
    frames = random_frames(sample_head(), 1 if quick else FRAMES[device.type], device)
    seconds = seconds_of_views(Renderer(sample_head(), device=device), frames, YAWS, repeats=3)
    results = []
    with tqdm(TASKS, unit="network") as bar:
        for task in bar:
            bar.set_description(task.name)
            with tempfile.TemporaryDirectory() as folder:
                results.append(race(task, folder, device, steps, TURNS[device.type], batch_size,
                                    **options))
            results[-1].flops = flops_of_image(task, results[-1].config, device)
            bar.set_postfix_str(f"{task.name} {results[-1].ours:.2f} images/s")
    return {"race": results, "peaks": peaks, "views": len(YAWS) * len(frames[0]) / seconds,
            "precision": precision}


def first_table(figures):
    """The lines of the first table."""
    results, precision = figures["race"], figures["precision"]
    peak = figures["peaks"][precision]
    frames = COMPOSITE["clips"] * len(OFFSETS) * len(YAWS)
    rows = {
        "": [r.task.name for r in results],
        "batch": [r.config.batch_size for r in results],
        f"images/s of training, ours ({precision})": [f"{r.ours:.2f}" for r in results],
        "images/s of training, plain loop (fp32)": [f"{r.plain:.2f}" for r in results],
        "ratio": [f"{r.ratio:.2f}" for r in results],
        "GFLOP an image": [f"{r.flops / 1e9:.1f}" for r in results],
        f"share of the {precision} matmul peak": [f"{100 * r.ours * r.flops / peak:.0f} %" for r in results],
        f"composite, {COMPOSITE['subjects']} folds of {EPOCHS} epochs":
            [duration(full_run_seconds(r)) for r in results],
        "GPU memory in an epoch, GiB": [f"{r.memory / 2**30:.2f}" for r in results if r.memory],
        "matmul peak, TFLOP/s": [f"{kind} {peak / 1e12:.3g}" for kind, peak in figures["peaks"].items()],
        "views/s; the composite's views": [f"{figures['views']:.1f}", duration(frames / figures["views"])],
        "peak memory of this process, GiB": [f"{peak_memory(torch.device('cpu')) * 1e6 / 2**30:.2f}"],
    }
    return [f"{name:<42}" + "".join(f"{value:>12}" for value in values)
            for name, values in rows.items() if values]


def second_table(runs):
    """The lines of the table of growth; runs: see `cost.growth`."""
    base = runs["base"][1]
    lines = [f"{'2-D --quick network':<22}{'images':>9}{'seconds':>9}{'x base':>8}"]
    return lines + [f"{name:<22}{images:>9}{seconds:>9.2f}{seconds / base:>8.2f}"
                    for name, (images, seconds) in runs.items()]


def duration(seconds):
    """`seconds` for a reader: seconds, minutes or hours."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _parse(arguments):
    parser = machine_parser("benchmarks", __doc__)
    add_race_options(parser, None, "batches of a measured epoch [1 on a CPU; on a GPU 39, the composite's]")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Command line. Raises: InputError for a device or precision that is not there."""
    options = _parse(arguments)
    device = choose_device(options.device)
    set_arithmetic(device, configured(".", quick=options.quick, threads=options.threads).cpu_threads)
    precision = choose_precision(device, options.precision)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() + " CPU"
    print(f"{name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
          + (", --quick: small networks" if options.quick else ""), flush=True)
    steps = options.steps or STEPS[device.type]
    figures = measure(device, precision, steps, options.batch_size, options.quick, options.threads)
    print("\n" + "\n".join(first_table(figures)))
    print(f"{composite_passes():,} training passes, {2 * EPOCHS * COMPOSITE['clips']:,} test passes in the "
          "full run; the fp32 peak of a GPU is TF32's", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        size = (1, 1) if options.quick else (GROWTH_STEPS[device.type], 2)
        runs = growth(Path(folder), device, *size, precision=precision, threads=options.threads)
    print("\n" + "\n".join(second_table(runs)))


if __name__ == "__main__":
    run_main(main)
