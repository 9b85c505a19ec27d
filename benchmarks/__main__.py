"""What the project costs on this machine: one table, and one that shows how the cost grows.

    python -m benchmarks            # full size; about three minutes on two CPU cores
    python -m benchmarks --quick    # small networks, a first look; these are not the project's figures

Training is measured in whole epochs of capsule.fold (sampling, augmentation, steps, evaluation), data in
memory, beside a plain loop (DataLoader with one worker, JPEGs, PIL, fp32, no evaluation) that takes turns
with it. The estimate of the full run is for folds one after the other. Views: face crop to thirteen views
with the face mesh, whole; beside it DECA's kind of head, the drawing alone.
"""

import platform
import resource
import tempfile

import numpy as np
import torch
from skimage.data import astronaut
from torch.utils.benchmark import Timer
from tqdm import tqdm

from benchmarks.training import TASKS, growth, race
from capsule.device import choose_precision, set_arithmetic
from capsule.inputs.crops import clip_square
from common.console import Parser, run_main
from common.device import choose_device
from common.errors import InputError
from deca import make_reconstructor
from deca.flame import HeadModel
from deca.head_renderer import HeadRenderer
from deca.landmarks import LandmarkDetector, warp_square
from synthetic.mesh import build_head

COMPOSITE_EPOCH = 5 * 3 * 83    # images a clip · classes · clips of the rarest
IMAGES = {"cpu": 1, "cuda": COMPOSITE_EPOCH}    # of an epoch; at least one batch
MATRIX, FRAMES = {"cpu": 2048, "cuda": 8192}, {"cpu": 5, "cuda": 100}
COMPOSITE_PASSES = 30 * COMPOSITE_EPOCH * 67    # epochs · … · subjects − 1


def seconds_of(statement, **names):
    """Seconds of a statement about these names, on the device and threads in use, after two to warm up."""
    return Timer(statement, globals=names, num_threads=torch.get_num_threads()).timeit(5).mean


def matmul_peak(device, kind, side):
    """FLOP/s of the product of two square matrices, in "fp32" (on a GPU TF32) or "bf16"."""
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    return 2 * side**3 / seconds_of("left @ right", left=left, right=right)


def views_speed(device, frames):
    """{paint: views/s} of the face mesh on crops of scikit-image's astronaut, crop to pictures."""
    center, side, _ = clip_square(astronaut(), LandmarkDetector())
    crop = warp_square(astronaut(), center, side).transpose(2, 0, 1)
    pictures, maker = torch.from_numpy(np.stack([crop] * frames)), make_reconstructor("mesh", str(device))
    return {paint: 13 * frames / seconds_of("maker.views(pictures, paint)", maker=maker, pictures=pictures,
                                            paint=paint) for paint in ("shape_detail", "texture")}


def head_speed(device, frames):
    """Views/s that a head of FLAME's kind, with a UV map of detail, is drawn at: no network, no picture."""
    head, empty, size = build_head(), np.zeros(0), (256, 256)
    points = (head.points - head.points.mean(0)) / 1000
    model = HeadModel(points, head.faces, *[empty] * 8, head.uv, head.faces, np.zeros(size),
                      np.ones(size))
    vertices = torch.tensor(points, dtype=torch.float32, device=device).expand(frames, -1, -1)
    root = torch.zeros(frames, 3, device=device)
    return 13 * frames / seconds_of("renderer.views(vertices, root)", vertices=vertices, root=root,
                                    renderer=HeadRenderer(model, device=device))


def first_table(results, peaks, precision, views):
    """The lines of the first table. results: what `race` gives for each of TASKS."""
    ours, plain, flops, memory = zip(*results, strict=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss    # KiB
    rows = {
        "": [task.name for task in TASKS],
        "batch": [task.batch_size for task in TASKS],
        f"images/s of training, ours ({precision})": [f"{speed:.2f}" for speed in ours],
        "images/s of training, plain loop (fp32)": [f"{speed:.2f}" for speed in plain],
        "ratio": [f"{a / b:.2f}" for a, b in zip(ours, plain, strict=True)],
        "GFLOP an image": [f"{count / 1e9:.1f}" for count in flops],
        f"share of the {precision} matmul peak": [f"{100 * speed * count / peaks[precision]:.0f} %"
                                                  for speed, count in zip(ours, flops, strict=True)],
        "composite, 68 folds of 30 epochs": [_time(COMPOSITE_PASSES / speed) for speed in ours],
        "GPU memory in an epoch, GiB": [f"{most / 2**30:.2f}" for most in memory if most],
        "matmul peak, TFLOP/s": [f"{kind} {most / 1e12:.3g}" for kind, most in peaks.items()],
        "views/s of the face mesh; of DECA's head": [f"{paint.split('_')[0]} {speed:.0f}"
                                                     for paint, speed in views.items()],
        "peak memory of this process, GiB": [f"{peak / 2**20:.2f}"],
    }
    return [f"{name:<42}" + "".join(f"{value:>13}" for value in values)
            for name, values in rows.items() if values]


def _time(seconds):
    return f"{seconds / 3600:.1f} h" if seconds > 7200 else f"{seconds / 60:.1f} min"


def second_table(runs):
    """The lines of the table of growth."""
    base = runs["base"][1]
    lines = [f"{'2-D --quick network':<22}{'images':>9}{'seconds':>9}{'x base':>8}"]
    return lines + [f"{name:<22}{images:>9}{seconds:>9.2f}{seconds / base:>8.2f}"
                    for name, (images, seconds) in runs.items() if name != "warm-up"]


def main(arguments=None):
    """Command line. Raises: InputError for a device or precision that is not there, or too many threads."""
    parser = Parser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads [0: all cores]")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"),
                        help="of our loop [auto]")
    parser.add_argument("--quick", action="store_true", help="small networks, inputs and matrices")
    options = parser.parse_args(arguments)
    if not 0 <= options.threads <= 256:
        raise InputError(f"--threads {options.threads}: must be from 0 to 256")
    device, quick = choose_device(options.device), options.quick
    set_arithmetic(device, options.threads)
    precision, kind = choose_precision(device, options.precision), device.type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else platform.machine() + " CPU"
    print(f"{name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
          + (", --quick: small networks" if quick else ""), flush=True)
    peaks = {kind_: matmul_peak(device, kind_, 512 if quick else MATRIX[kind]) for kind_ in ("bf16", "fp32")}
    frames = 1 if quick else FRAMES[kind]
    views = {**views_speed(device, frames), "head": head_speed(device, frames)}
    with tempfile.TemporaryDirectory() as folder:
        results = [race(task, folder, device, precision, IMAGES[kind], quick, options.threads)
                   for task in tqdm(TASKS, unit="network", disable=None)]
    print("\n" + "\n".join(first_table(results, peaks, precision, views)), flush=True)
    print("\n" + "\n".join(second_table(growth(device, precision, 1 if quick else 3))))


if __name__ == "__main__":
    run_main(main)
