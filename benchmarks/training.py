"""Whole training epochs through capsule.run.Trainer, in turns with a plain loop, on the same pictures."""

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor

from benchmarks.generated import NAMES, OFFSETS, configured, generated
from capsule.experiment import Experiment
from capsule.loss import me_loss
from capsule.modules import MECapsuleNet, MECapsuleNetDualCA
from capsule.run import Trainer
from common.images import write_image

TEST_CLIPS = 7      # of the subject that is left out; the composite has 440 clips of 68 subjects
PER_CLASS = len(NAMES) * len(OFFSETS)       # training images that one clip of each class brings
ON_DISK = 64        # clips whose pictures the plain loop reads again and again
PLAIN_STEPS = 8     # batches of the plain loop's turn at most: on a GPU it is slower by far


@dataclass(frozen=True)
class Task:
    """A network and its input: channels of each stream as our loop holds them (13: grey views)."""

    name: str
    channels: tuple
    batch_size: int

    def network(self, config):
        """A fresh network of `config`'s size, from random weights."""
        side = config.input_size
        if len(self.channels) == 2:
            return MECapsuleNetDualCA(len(NAMES), pretrained=False, width=config.width,
                                      input_size=(side, side))
        planes = 3 if self.channels == (3,) else 3 * self.channels[0]
        return MECapsuleNet((planes, side, side), len(NAMES), pretrained=False, width=config.width)


TASKS = (Task("2-D", (3,), 32), Task("3-D", (13,), 16), Task("dual", (3, 13), 16))


class PlainData(Dataset):
    """The plain loop's data: JPEGs decoded and augmented with PIL, one draw for all pictures of a sample.

    samples: a list of pictures' paths for each clip, all its streams. Item: the pictures as RGB, stream by
    stream float (3·pictures, size, size), and a label.
    """

    def __init__(self, samples, channels, size, length):
        self.samples, self.length = samples, length
        self.counts = [1 if count == 3 else count for count in channels]
        self.transform = v2.Compose([v2.Resize((size, size)), v2.RandomRotation(8),
                                     v2.RandomHorizontalFlip(), v2.ColorJitter(0.2, 0.2, 0.2, 0.2)])

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        pictures = []
        for path in self.samples[i % len(self.samples)]:
            with Image.open(path) as picture:
                pictures.append(picture.convert("RGB"))
        planes = [to_tensor(picture) for picture in self.transform(pictures)]
        streams = torch.stack(planes).split(self.counts)                 # (pictures, 3, size, size)
        return [stream.flatten(0, 1) for stream in streams], i % len(NAMES)


def write_pictures(folder, streams):
    """Write the first clips' apex pictures as JPEGs. Returns: their paths, a list for each clip."""
    samples = []
    for row in range(2, len(streams[0]), len(OFFSETS))[:ON_DISK]:
        pictures = []
        for stream in streams:
            image = stream.images[row]                                   # (C, H, W)
            pictures += [image.permute(1, 2, 0)] if len(image) == 3 else list(image)
        paths = [Path(folder) / f"{row}_{i}.jpg" for i in range(len(pictures))]
        for path, picture in zip(paths, pictures, strict=True):
            write_image(path, picture.numpy())
        samples.append(paths)
    return samples


def plain_loop(task, config, samples, device):
    """A function turn(steps) → seconds of so many batches of the plain loop, after one to warm up.

    DataLoader with one worker, fp32, contiguous layout, direct convolutions, Adam. Each turn has a worker of
    its own, which has loaded all at the turn's end: it takes no time from the other loop.
    """
    torch.manual_seed(config.seed)
    model = task.network(config)
    spectral = model.conv1
    model.conv1 = torch.nn.Conv2d(spectral.in_channels, spectral.out_channels, spectral.kernel_size)
    model.conv1.load_state_dict(spectral.state_dict())
    model.to(device).train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def turn(steps):
        data = PlainData(samples, task.channels, config.input_size, config.batch_size * (1 + steps))
        started = time.perf_counter()
        for i, (streams, labels) in enumerate(DataLoader(data, config.batch_size, num_workers=1)):
            if i == 1:
                started = time.perf_counter()
            loss = me_loss(model(*(stream.to(device) for stream in streams)), labels.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()    # waits for the device
        return time.perf_counter() - started

    return turn


class TimedTrainer(Trainer):
    """A Trainer that adds up the seconds of its evaluations; both ends of one wait for the device."""

    evaluating = 0.0

    def _predict(self, model, rows, noise=None):
        started = time.perf_counter()
        outputs = super()._predict(model, rows, noise)
        self.evaluating += time.perf_counter() - started
        return outputs


class Race:
    """Called after each of our epochs: notes its time, then gives the plain loop its turn.

    The first epoch warms up. `ours`, `evaluating`: seconds of each later epoch, without and of its two
    evaluations. `plain`: seconds of each of the plain loop's turns. `memory`: the most bytes that one of our
    epochs had on a GPU, the plain loop's weights among them; 0 on a CPU.
    """

    def __init__(self, plain, steps, turns, device):
        self.plain_turn, self.steps, self.turns, self.device = plain, steps, turns, device
        self.ours, self.evaluating, self.plain, self.memory = [], [], [], 0

    def run(self, trainer, data_sub, seed):
        """Train a fold, turn by turn."""
        self.trainer, self.resumed = trainer, time.perf_counter()
        trainer.train(data_sub, seed)

    def __call__(self, data_sub, epoch):
        now = time.perf_counter()
        if epoch > 0:
            self.evaluating.append(self.trainer.evaluating)
            self.ours.append(now - self.resumed - self.trainer.evaluating)
        if self.device.type == "cuda":
            self.memory = max(self.memory, torch.cuda.max_memory_allocated(self.device))
        if epoch < self.turns:
            self.plain.append(self.plain_turn(self.steps))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.trainer.evaluating, self.resumed = 0.0, time.perf_counter()


def race(task, folder, device, steps, turns, batch_size=None, **options):
    """Measure one task. steps: about so many batches an epoch of ours.

    batch_size: None for the task's own. options: of the Config. Files go to `folder`.
    Returns: namespace of ours, plain (images/s, each in its fastest turn), ratio, evaluation (seconds of both
    evaluations of TEST_CLIPS clips), memory (see Race), config, and the task.
    """
    config = configured(folder, device=str(device), epochs=1 + turns,
                        batch_size=batch_size or task.batch_size, **options)
    per_class = max(1, round(steps * config.batch_size / PER_CLASS))
    clips, streams = generated([TEST_CLIPS, len(NAMES) * per_class], task.channels, config.input_size)
    plain = plain_loop(task, config, write_pictures(folder, streams), device)
    if device.type == "cuda":
        plain(0)    # chooses its kernels, which would give the worker of the first turn a start
    plain_steps = min(steps, PLAIN_STEPS)
    timed = Race(plain, plain_steps, turns, device)
    experiment = Experiment(config, clips, {})
    trainer = TimedTrainer(experiment, streams, lambda: task.network(config), me_loss, device, timed)
    timed.run(trainer, clips.subjects[0], config.seed)
    ours = PER_CLASS * per_class / min(timed.ours)
    rate = config.batch_size * plain_steps / min(timed.plain)
    return SimpleNamespace(task=task, ours=ours, plain=rate, ratio=ours / rate, config=config,
                           evaluation=min(timed.evaluating), memory=timed.memory)
