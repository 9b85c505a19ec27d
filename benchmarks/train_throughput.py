"""How fast the 2-D network trains, beside a plain loop, both measured in one run.

The plain loop: a DataLoader with one worker that decodes JPEGs from disk and augments them with PIL, fp32,
contiguous layout, direct convolutions, Adam. Ours: the images in memory as uint8, augmented a batch at a
time, channels-last, bf16 where the device computes it fast, the large convolution by spectra on a CPU, fused
Adam. Same sizes, frozen layers, loss. They take turns and the fastest turn of each counts, because other
work on the machine can only slow a turn.

    python benchmarks/train_throughput.py                      # full size, batch 32
    python benchmarks/train_throughput.py --steps 1 --turns 1  # a first look

Prints images/s of both, their ratio, and peak memory.
"""

import argparse
import math
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from capsule.data import augment
from capsule.device import choose_device, set_arithmetic, tune_convolutions
from capsule.loss import me_loss
from capsule.modules import MECapsuleNet
from capsule.step import choose_precision, make_step
from common.images import write_image

SIZE, CLASSES, PICTURES, LEARNING_RATE, SEED = 224, 3, 128, 1e-4, 9


class JpegFolder(Dataset):
    """The plain loop's data: `length` pictures, each decoded from its file and augmented with PIL."""

    def __init__(self, paths, length):
        self.paths, self.length = paths, length
        self.transform = transforms.Compose([
            transforms.Resize((SIZE, SIZE)), transforms.RandomRotation(8), transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.2, 0.2, 0.2, 0.2), transforms.ToTensor()])

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        with Image.open(self.paths[i % len(self.paths)]) as picture:
            return self.transform(picture.convert("RGB")), i % CLASSES


def make_pictures(folder):
    """Write PICTURES smooth random JPEGs; returns their paths and the pictures, uint8 (N, 3, SIZE, SIZE)."""
    small = torch.rand(PICTURES, 3, 14, 14, generator=torch.Generator().manual_seed(SEED))
    large = torch.nn.functional.interpolate(small, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
    images = (255 * large).to(torch.uint8)
    paths = [Path(folder) / f"{i:04d}.jpg" for i in range(PICTURES)]
    for path, image in zip(paths, images, strict=True):
        write_image(path, image.permute(1, 2, 0).numpy())
    return paths, images


def network(device):
    """The network; the same weights for both loops."""
    torch.manual_seed(SEED)
    return MECapsuleNet((3, SIZE, SIZE), CLASSES, pretrained=False).to(device)


def adam(model, **options):
    """The optimiser of the parameters that are not frozen."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE, **options)


def plain_loop(paths, batch_size, device):
    """A function turn(steps) → seconds of so many batches of the plain loop, after one to warm up.

    Each turn has its own worker, done by the turn's end: it takes no time from the other loop.
    """
    model = network(device)
    spectral = model.conv1    # a plain loop convolves directly
    model.conv1 = torch.nn.Conv2d(spectral.in_channels, spectral.out_channels, spectral.kernel_size)
    model.conv1.load_state_dict(spectral.state_dict())
    model.to(device).train()
    optimizer = adam(model)

    def turn(steps):
        data = JpegFolder(paths, batch_size * (1 + steps))
        for i, (images, labels) in enumerate(DataLoader(data, batch_size, num_workers=1, shuffle=True)):
            if i == 1:
                started = time.perf_counter()
            loss = me_loss(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        return time.perf_counter() - started

    return turn


def our_loop(images, batch_size, device, precision):
    """A function turn(steps) → seconds of so many batches of ours, after one to warm up."""
    model = network(device)
    step = make_step(model, adam(model, fused=True), me_loss, device, precision)
    images, draws = images.to(device), torch.Generator().manual_seed(SEED)

    def turn(steps):
        for i in range(1 + steps):
            if i == 1:
                started = time.perf_counter()
            rows = torch.randint(PICTURES, (batch_size,), generator=draws)
            inputs = augment.train_batch([images[rows.to(device)]], augment.draw(batch_size, draws), SIZE)
            step(inputs, (rows % CLASSES).to(device)).item()
        return time.perf_counter() - started

    return turn


def measure(device, precision, batch_size, steps, turns):
    """dict: images/s of the "plain" loop and of "ours", each in its fastest turn, and their "ratio"."""
    with tempfile.TemporaryDirectory() as folder:
        paths, images = make_pictures(folder)
        loops = {"plain": plain_loop(paths, batch_size, device),
                 "ours": our_loop(images, batch_size, device, precision)}
        fastest = dict.fromkeys(loops, math.inf)
        for _ in range(turns):
            for name, turn in loops.items():
                fastest[name] = min(fastest[name], turn(steps))
    rate = {name: batch_size * steps / seconds for name, seconds in fastest.items()}
    return {**rate, "ratio": rate["ours"] / rate["plain"]}


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--steps", type=int, default=3, help="batches of each loop in a turn")
    parser.add_argument("--turns", type=int, default=2, help="turns of each loop")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all cores)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="of our loop")
    options = parser.parse_args()
    device = choose_device(options.device)
    set_arithmetic(device, options.threads)
    tune_convolutions(True)
    precision = choose_precision(device, options.precision)
    result = measure(device, precision, options.batch_size, options.steps, options.turns)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20    # KiB on Linux → GiB
    threads = torch.get_num_threads()
    print(f"2-D network, {SIZE}x{SIZE}, batch {options.batch_size}, {device}, {threads} CPU threads")
    print(f"plain loop      {result['plain']:8.2f} images/s   (fp32)")
    print(f"ours            {result['ours']:8.2f} images/s   ({precision})")
    print(f"ratio           {result['ratio']:8.2f}")
    print(f"peak memory     {peak:8.2f} GiB, both loops together")


if __name__ == "__main__":
    main()
