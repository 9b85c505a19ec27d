"""Whole training epochs of capsule.fold, in turns with a plain loop, on the same pictures; and what a run
costs."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor

from benchmarks.generated import NAMES, generated
from capsule.fold import Pictures, Training, train_fold
from capsule.inputs.crops import NEIGHBOURS
from capsule.modules import Network
from common.images import write_image

TEST_CLIPS = 7      # of the subject that is left out; the composite has 440 clips of 68 subjects
PER_CLASS = len(NAMES) * len(NEIGHBOURS)    # training images that one clip of each class brings
ON_DISK = 64        # clips whose pictures the plain loop reads again and again
TURNS = 2           # of each loop
PLAIN_STEPS = 4     # batches of the plain loop's turn at most: on a GPU it is slower by far


@dataclass(frozen=True)
class Task:
    """A network and its input: channels of each stream as our loop holds them (13: grey views)."""

    name: str
    model: str
    channels: tuple
    batch_size: int

    def make(self, network, device):
        """A fresh network, training, for RGB pictures."""
        return network.make([3 if count == 3 else 3 * count for count in self.channels])[0].to(device).train()


TASKS = (Task("2-D", "resnet", (3,), 32), Task("3-D", "resnet", (13,), 16),
         Task("dual", "MECapsuleNetDualCA", (3, 13), 16))


class PlainData(Dataset):
    """The plain loop's data: JPEGs decoded and augmented with PIL, one draw for all pictures of a sample."""

    def __init__(self, samples, channels, side, length):
        self.samples, self.length = samples, length
        self.counts = [1 if count == 3 else count for count in channels]
        self.transform = v2.Compose([v2.Resize((side, side)), v2.RandomRotation(8),
                                     v2.RandomHorizontalFlip(), v2.ColorJitter(0.2, 0.2, 0.2, 0.2)])

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        pictures = [Image.open(path).convert("RGB") for path in self.samples[i % len(self.samples)]]
        planes = [to_tensor(picture) for picture in self.transform(pictures)]
        streams = torch.stack(planes).split(self.counts)                 # (pictures, 3, side, side)
        return [stream.flatten(0, 1) for stream in streams], i % len(NAMES)


def write_pictures(folder, streams):
    """Write the first clips' apex pictures as JPEGs. Returns: their paths, a list for each clip."""
    samples = []
    for row in streams[0].is_apex.nonzero()[0][:ON_DISK]:
        pictures = []
        for stream in streams:
            image = stream.images[row]                                   # (C, H, W)
            pictures += [image.permute(1, 2, 0)] if len(image) == 3 else list(image)
        samples.append([Path(folder) / f"{row}_{i}.jpg" for i in range(len(pictures))])
        for path, picture in zip(samples[-1], pictures, strict=True):
            write_image(path, picture.numpy())
    return samples


def plain_turn(task, network, samples, device, steps):
    """images/s of `steps` batches after one to warm up: DataLoader with one worker, fp32, contiguous layout,
    Adam."""
    torch.manual_seed(9)
    model = task.make(network, device)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    data = PlainData(samples, task.channels, network.side, task.batch_size * (1 + steps))
    for i, (streams, labels) in enumerate(DataLoader(data, task.batch_size, num_workers=1)):
        if i == 1:
            started = time.perf_counter()
        loss = network.loss(model(*(stream.to(device) for stream in streams)), labels.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()    # waits for the device
    return task.batch_size * steps / (time.perf_counter() - started)


def race(task, folder, device, precision, images, quick, threads):
    """Measure one task, epochs of about `images` of ours, at least a batch (the first warms up), in turn with
    the plain loop's.

    Ours include the two evaluations of TEST_CLIPS clips after each epoch; the plain loop has none. Returns:
    (images/s of ours, of the plain loop, each in its fastest turn; FLOP an image; peak bytes on a GPU in one
    epoch).
    """
    network = Network(task.model, len(NAMES), quick=quick, pretrained=False)
    per_class = max(1, round(max(images, task.batch_size) / PER_CLASS))
    clips, streams = generated([TEST_CLIPS, len(NAMES) * per_class], task.channels, network.side)
    samples = write_pictures(folder, streams)
    plain_steps = max(1, min(images // task.batch_size, PLAIN_STEPS))
    ours, plain, memory = [], [], [0]

    def turn(epoch):
        if device.type == "cuda":
            memory.append(torch.cuda.max_memory_allocated(device))
        if epoch.number > 1:
            ours.append(epoch.images_per_second)
        if epoch.number <= TURNS:
            plain.append(plain_turn(task, network, samples, device, plain_steps))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    training = Training(network, 1 + TURNS, task.batch_size, 1e-4, 0.9, 9, precision, threads)
    train_fold(Pictures(clips, streams, network, device), clips.subjects[0], training, turn)
    return max(ours), max(plain), flops_of_image(task, network, device), max(memory)


def flops_of_image(task, network, device):
    """FLOPs of training on one image, forward and backward."""
    model = task.make(network, device)
    inputs = [torch.rand(1, count, network.side, network.side, device=device) for count in task.channels]
    with FlopCounterMode(display=False) as counter:
        network.loss(model(*inputs), torch.zeros(1, dtype=torch.int64, device=device)).backward()
    return counter.get_total_flops()


def growth(device, precision, steps):
    """What a small run costs and one with twice the folds, clips, epochs: {name: (images trained on,
    seconds)}.

    The 2-D --quick network on generated data, 3·`steps` batches of 15 an epoch, one thread.
    """
    network, found = Network("resnet", len(NAMES), quick=True, pretrained=False), {}
    base = Training(network, 1, 15, 1e-4, 0.9, 9, precision, threads=1)
    sizes = {"warm-up": (1, steps, 1), "base": (1, steps, 1), "folds doubled": (2, steps, 1),
             "clips doubled": (1, 2 * steps, 1), "epochs doubled": (1, steps, 2)}
    for name, (folds, clips_each, epochs) in sizes.items():
        clips, streams = generated([len(NAMES) * clips_each] * 4, (3,), network.side)
        pictures, started = Pictures(clips, streams, network, device), time.perf_counter()
        for data_sub in clips.subjects[:folds]:
            train_fold(pictures, data_sub, replace(base, epochs=epochs))
        found[name] = 3 * PER_CLASS * folds * clips_each * epochs, time.perf_counter() - started
    return found
