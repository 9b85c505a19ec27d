"""How fast are the thirteen views? Views per second, seconds per frame, peak memory, the ratio to pytorch3d.

Renders the thirteen `shape_detail` views (SPEC section 5) of random heads with our rasteriser and, where
pytorch3d imports, the same renderer with pytorch3d's. Run from the project's folder:

    python -m benchmarks.views_throughput                      # the sample head, every device there is
    python -m benchmarks.views_throughput --assets deca/data   # FLAME
    python -m benchmarks.views_throughput --device cuda --frames 512
"""

import argparse
import importlib.util
import platform
import resource
import sys
import time

import torch

from common.errors import InputError
from deca.assets import load_flame
from deca.flame import FLAME
from deca.renderer import YAWS, Renderer
from synthetic.head import sample_head

FRAMES = {"cpu": 4, "cuda": 256}           # rendered in one call


def random_frames(head, count, device):
    """N = `count` random faces of `head` → vertices (N, V, 3), root (N, 3), displacement (N, 1, 256, 256)."""
    generator = torch.Generator().manual_seed(0)
    shape = torch.randn(count, min(100, head.shape_basis.shape[2]), generator=generator) * 0.5
    expression = torch.randn(count, min(50, head.expression_basis.shape[2]), generator=generator) * 0.3
    with torch.no_grad():
        posed = FLAME(head)(shape, expression, torch.zeros(count, 6))
    detail = (torch.rand(count, 1, 256, 256, generator=generator) - 0.5) * 0.001
    return posed.verts.to(device), posed.root.to(device), detail.to(device)


def measure(renderer, frames, yaws, repeats):
    """Median seconds of a call that renders `frames` (see `random_frames`) at `yaws`, after a warm-up."""
    vertices, root, displacement = frames
    seconds = []
    for _ in range(repeats + 1):
        _wait(vertices.device)
        start = time.perf_counter()
        renderer.views(vertices, root, yaws, displacement=displacement)
        _wait(vertices.device)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[repeats // 2]


def _wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device):
    """Peak memory so far, MB: of the whole process on the CPU, of our tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024         # getrusage: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def report(head, device, n_frames, repeats):
    """Measure one device and print its lines. n_frames: frames per call, or None for the device's default."""
    n_frames = n_frames or FRAMES[device.type]
    frames = random_frames(head, n_frames, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    print(f"{device} ({name}{threads}); {head.name} head, {len(head.template)} vertices, "
          f"{len(head.faces)} triangles, 224x224, {n_frames} frames a call")
    seconds = measure(Renderer(head, device=device), frames, YAWS, repeats) / n_frames
    print(f"  ours:      {len(YAWS) / seconds:9.1f} views/s  {seconds:8.4f} s/frame  "
          f"peak memory {peak_memory(device):.0f} MB")
    if importlib.util.find_spec("pytorch3d") is None:
        print("  pytorch3d: not installed")
        return
    # On a CPU it takes seconds a view: one view of one frame is enough to know.
    yaws, count = (YAWS, n_frames) if device.type == "cuda" else ((0,), 1)
    few = tuple(part[:count] for part in frames)
    theirs = measure(Renderer(head, rasterizer="pytorch3d", device=device), few, yaws, 1)
    theirs = theirs / (count * len(yaws))                          # seconds a view
    print(f"  pytorch3d: {1 / theirs:9.2f} views/s  {theirs * len(YAWS):8.4f} s/frame  "
          f"ours is {theirs * len(YAWS) / seconds:.1f} times as fast")


def main(arguments=None):
    """Command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", metavar="FOLDER", help="FLAME's official files; default: the sample head")
    parser.add_argument("--device", help="cpu or cuda; default: both where there is a GPU")
    parser.add_argument("--frames", type=int, help="frames per call; default: 4 on the CPU, 256 on a GPU")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls; the median counts")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or (options.frames is not None and options.frames < 1):
        parser.error("--repeats and --frames must be at least 1")
    present = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if options.device is not None and options.device not in present:
        parser.error(f"--device {options.device}: not here; there is {' and '.join(present)}")
    try:
        head = load_flame(options.assets) if options.assets else sample_head()
    except InputError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for device in [options.device] if options.device else present:
        report(head, torch.device(device), options.frames, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
