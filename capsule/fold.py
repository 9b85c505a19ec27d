"""One fold, top to bottom: leave a subject out, train on the others, predict the one after every epoch.

`train_one` takes a fold, if no other process has it, and writes down how it ended; `train_fold` trains it.
Each epoch: the training list is drawn (`sampling`), its pictures are augmented a batch at a time (`augment`),
each batch is one step, and the held-out clips are predicted in both ways of SPEC section 7. No label of the
held-out subject reaches the network, the sampler or the number of epochs: they are written down beside the
predictions, for whoever reads the results.
"""

import contextlib
import hashlib
import math
import time
from dataclasses import dataclass, replace

import torch

from capsule.curves import write_curves
from capsule.data.action_units import unit_matrix
from capsule.device import autocast_for, choose_precision, sent, set_arithmetic, tune_convolutions
from capsule.inputs import augment, sampling
from capsule.learner import Learner
from capsule.metrics import Meter
from common.errors import InputError

PREDICT_BATCH = 64
AUGMENTED_AT_ONCE = {"cpu": 1, "cuda": 128}    # images, at least one batch


class FoldError(Exception):
    """A fold that could not be trained (its loss was not a number); the other folds go on."""


@dataclass(frozen=True)
class Training:
    """How every fold of an experiment is trained; `network`: capsule.modules.Network."""

    network: object
    epochs: int
    batch_size: int
    learning_rate: float
    lr_decay: float
    seed: int
    precision: str = "auto"
    threads: int = 0
    deterministic: bool = False


@dataclass(frozen=True)
class Epoch:
    """What an epoch did, for logs and curves; metrics of the held-out clips are for the eye alone."""

    data_sub: str
    number: int             # from 1
    loss: float             # mean over the training images
    train_uf1: float
    train_uar: float
    uf1: dict               # evaluation → UF1 of the fold's clips
    accuracy: dict
    learning_rate: float
    images_per_second: float


class Pictures:
    """The streams of an experiment on one device, the same for all folds: `images` and `kinds` of each
    stream, `labels` (N,) of each picture."""

    def __init__(self, clips, streams, network, device):
        self.clips, self.index, self.device, self.side = clips, streams[0], device, network.side
        self.kinds = [stream.kind for stream in streams]
        self.images = [augment.shrunk(stream.images, self.side).to(device) for stream in streams]
        self.channels = [stream.channels for stream in streams]
        self.labels = torch.from_numpy(clips.labels[self.index.clip]).to(device)    # (N,)
        self._learner = None

    def batch(self, rows):
        """The pictures of image rows, a uint8 tensor a stream, and their labels."""
        rows = sent(rows, self.device)
        return [images[rows] for images in self.images], self.labels[rows]

    def learner(self, model, training):
        """A Learner that begins with `model`; on a GPU the last fold's, where it was trained alike."""
        last = self._learner
        if last and last.training == training:
            last.restart(model)
            return last
        learner = Learner(model, training, self.device)
        if self.device.type == "cuda":
            self._learner = learner
        return learner


def train_one(experiment, data_sub, pictures, training, report):
    """Train one fold under its lock, unless it is finished; `report(Epoch)` after each epoch.

    Returns: False when another process has it, else True. Raises: FoldError, noted in the experiment's folder
    too, when it could not be trained.
    """
    with experiment.fold_lock(data_sub) as mine:
        if not mine or experiment.finished(data_sub):
            return mine
        epochs = []

        def both(epoch):
            epochs.append(epoch)
            report(epoch)

        try:
            result, model = train_fold(pictures, data_sub, training, both)
        except FoldError as error:
            experiment.save_failure(data_sub, fold_seed(training.seed, data_sub), str(error))
            raise
        finally:
            if experiment.options.tensorboard:
                write_curves(experiment.folder / "tensorboard" / data_sub, epochs)
        if result["weights"] != experiment.weights:     # of another machine of a cluster
            raise InputError(f"fold {data_sub}: began with weights {result['weights']}, the experiment with "
                             f"{experiment.weights}; put them on every machine or use --no-pretrained")
        experiment.save(data_sub, result, model, pictures.device)
        return True


@contextlib.contextmanager
def memory_told(what, workers):
    """Context manager: a full GPU is an InputError that begins with `what`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        fewer = "fewer, or " if workers > 1 else ""
        raise InputError(f"{what}: the GPU's memory is full with --workers {workers}; use {fewer}a smaller "
                         "--batch-size") from error


def fold_seed(seed, data_sub):
    """Seed of one fold, from the run's seed and the subject alone: whatever ran before, the same numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed} {data_sub}".encode()).digest()[:6], "big")


def train_fold(pictures, data_sub, training, report=lambda epoch: None):
    """Train the fold that leaves `data_sub` out; `report(Epoch)` is called after each epoch.

    Returns: (the fold's part of its result file as a dict, the network after its last epoch).
    Raises: FoldError when the loss or an output is not a number.
    """
    record, device, clips = _Record(pictures.clips, data_sub, training), pictures.device, pictures.clips
    set_arithmetic(device, training.threads, training.deterministic)
    training = replace(training, precision=choose_precision(device, training.precision))
    torch.manual_seed(record.seed)                              # initial weights, dropout
    draws = torch.Generator().manual_seed(record.seed)          # sampling and augmentation
    noise = torch.Generator().manual_seed(record.seed + 1)      # the paper evaluation's rotations

    model, weights = training.network.make(pictures.channels)
    if not isinstance(model, torch.nn.Module):
        return _fit_fold(model, pictures, record, report)
    learner = pictures.learner(model, training)
    model = learner.model
    test_rows = sampling.apex_rows(pictures.index, record.test_clips)
    turned = None if set(pictures.kinds) == {"motion"} else noise    # the paper turns pictures, not motion

    remedy = f"(fold seed {record.seed}); try a lower --learning-rate or --precision fp32"
    for number in range(1, training.epochs + 1):
        began, rate = time.monotonic(), learner.rate
        rows = sampling.sample_data(clips, pictures.index, record.train_clips, draws)
        rows = rows[torch.randperm(len(rows), generator=draws)]
        loss, meter = _train_epoch(learner, pictures, rows, draws)
        if not math.isfinite(loss):
            raise FoldError(f"the loss is {loss} in epoch {number} {remedy}")
        learner.set_rate(rate * training.lr_decay)
        scores = predict(model, pictures, test_rows, training, turned)
        if not scores.isfinite().all():
            raise FoldError(f"outputs are no numbers after epoch {number} {remedy}")
        report(record.add(loss, meter, scores[0], scores[-1], len(rows), began, rate))
    return record.result(weights, learner.how), model


def _fit_fold(model, pictures, record, report):
    """As `train_fold` for a classifier without epochs (capsule.modules.svm): all apexes, nothing random; and
    the training clips' action units, where the clip table has them."""
    (images,), labels = pictures.batch(sampling.apex_rows(pictures.index, record.train_clips))
    (held_out,), _ = pictures.batch(sampling.apex_rows(pictures.index, record.test_clips))
    images, labels = images.cpu().numpy(), labels.cpu().numpy()
    train = pictures.clips.table.iloc[record.train_clips]
    more = (train["data_sub"], unit_matrix(train["action_units"])) if "action_units" in train else ()
    if len(set(labels.tolist())) < 2:
        raise FoldError("the other subjects' clips are all of one class; add subjects")
    model.fit(images, labels, *more)
    scores, known = (torch.from_numpy(model.scores(part)) for part in (held_out.cpu().numpy(), images))
    meter = Meter(record.classes, labels, known.argmax(1))
    loss = float(1 - known[torch.arange(len(labels)), torch.from_numpy(labels)].mean())
    report(record.add(loss, meter, scores, scores, len(labels), record.started, 0.0))
    return record.result("none"), model


class _Record:
    """What a fold's epochs gave, for its result file, its log and its curves."""

    def __init__(self, clips, data_sub, training):
        self.started, self.data_sub, self.classes = time.monotonic(), data_sub, training.network.classes
        self.seed, self.seen = fold_seed(training.seed, data_sub), 0
        self.train_clips, self.test_clips = sampling.data_split(clips, data_sub)
        self.clips = clips.table.iloc[self.test_clips][["data", "subject", "clip"]].to_dict("records")
        self.truth = torch.from_numpy(clips.labels[self.test_clips])
        self.epochs = {"loss": [], "train_uf1": [], "paper": [], "strict": []}

    def add(self, loss, meter, lengths, paper, images, began, rate):
        """An epoch that trained on so many `images` since `began`, as `Epoch`.

        meter: of their outputs. lengths, paper: scores (n, classes) of the held-out clips, strict and paper.
        """
        self.lengths, predicted = lengths, {"strict": lengths.argmax(1), "paper": paper.argmax(1)}
        self.seen += images
        self.epochs["loss"].append(round(loss, 8))
        self.epochs["train_uf1"].append(round(meter.uf1, 6))
        for name, classes in predicted.items():
            self.epochs[name].append(classes.tolist())
        own = {name: Meter(self.classes, self.truth, classes) for name, classes in predicted.items()}
        return Epoch(self.data_sub, len(self.epochs["loss"]), self.epochs["loss"][-1], meter.uf1, meter.uar,
                     {name: one.subject_uf1 for name, one in own.items()},
                     {name: one.accuracy for name, one in own.items()}, rate,
                     images / (time.monotonic() - began))

    def result(self, weights, how=None):
        """The fold's part of its result file. how: the steps were taken, where there were any."""
        seconds, step = time.monotonic() - self.started, {"step": how} if how else {}
        return {"fold_seed": self.seed, "weights": weights, "clips": self.clips,
                "y_true": self.truth.tolist(),
                "lengths": [[round(float(x), 6) for x in row] for row in self.lengths], **self.epochs, **step,
                "seconds": round(seconds, 3), "images_per_second": round(self.seen / seconds, 3)}


def _train_epoch(learner, pictures, rows, draws):
    """One pass over the image rows. Returns: the mean loss (nan if a batch's was), Meter of the outputs."""
    learner.model.train()
    training = learner.training
    total, outputs, labels = torch.zeros((), device=pictures.device), [], []
    for inputs, truth in batches(pictures, rows, augment.draw(len(rows), draws), training.batch_size):
        found, loss = learner.learn(inputs, truth)
        total += loss * len(truth)
        outputs.append(found.argmax(1))
        labels.append(truth)
    return float(total) / len(rows), Meter(training.network.classes, torch.cat(labels), torch.cat(outputs))


def batches(pictures, rows, draws, batch_size):
    """(inputs, labels) of each training batch; on a GPU several batches are augmented in one go."""
    at_once = max(1, AUGMENTED_AT_ONCE[pictures.device.type] // batch_size) * batch_size
    for first in range(0, len(rows), at_once):
        part = slice(first, first + at_once)
        images, labels = pictures.batch(rows[part])
        inputs = augment.train_batch(images, pictures.kinds, draws[part], pictures.side)
        streams = zip(*(stream.split(batch_size) for stream in inputs), strict=True)
        yield from zip(map(list, streams), labels.split(batch_size), strict=True)


def predict(model, pictures, rows, training, noise=None):
    """Scores in [0, 1] of n image rows, float32 (ways, n, classes), CPU.

    Ways: the strict evaluation; with `noise`, a generator, the paper's too.
    """
    model.eval()
    tune_convolutions(False)
    outputs = []
    for part in rows.split(PREDICT_BATCH):
        images, _ = pictures.batch(part)
        ways = [augment.strict_batch(images, pictures.side)]
        if noise:
            ways.append(augment.paper_eval_batch(images, pictures.kinds, noise, pictures.side))
        inputs = [torch.cat(stream) for stream in zip(*ways, strict=True)]
        with torch.inference_mode(), autocast_for(pictures.device, training.precision):
            scores = training.network.scores(model(*training.network.prepared(inputs)).float())
        outputs.append(scores.cpu().unflatten(0, (len(ways), -1)))
    return torch.cat(outputs, 1)
