"""One fold, top to bottom: leave one subject out, train on the others, predict the left-out clips each epoch.

`train_one` locks a fold, trains it and writes its result file; `train_fold` is the training itself.
Each epoch: draw the list of training images (`sampling`), augment them batch by batch (`augment`), take one
step per batch, then predict the held-out clips by both evaluations of SPEC section 7, strict and paper.
The held-out subject's labels never reach the network, the sampler or the number of epochs: they are only
stored beside the predictions, for scoring.
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
from common.errors import InputError, is_full

PREDICT_BATCH = 64                             # images; without gradients more fit than in a training batch
AUGMENTED_AT_ONCE = {"cpu": 1, "cuda": 128}    # images, rounded to whole batches: a GPU gains from few calls


class FoldError(Exception):
    """A fold that could not be trained (its loss was not finite, say); the other folds go on."""


@dataclass(frozen=True)
class Training:
    """How every fold is trained. network: capsule.modules.Network; the rest as in capsule.config.Options."""

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
    """What one epoch gave, for log and TensorBoard; nothing is decided by its scores of held-out clips."""

    data_sub: str
    number: int             # from 1
    loss: float             # mean over the training images
    train_uf1: float        # of the training images, as predicted during the epoch
    train_uar: float
    uf1: dict               # "strict" and "paper" → UF1 of the held-out clips
    accuracy: dict          # likewise
    learning_rate: float
    images_per_second: float


class Pictures:
    """The N pictures of each stream on one device, for all folds: `images`, a uint8 (N, C, H, W) a stream,
    no larger than the network's input; `labels`, int64 (N,); `index`, the FrameImages that name them."""

    def __init__(self, clips, streams, network, device):
        self.clips, self.index, self.device, self.side = clips, streams[0], device, network.side
        self.kinds = [stream.kind for stream in streams]
        self.images = [augment.shrunk(stream.images, self.side).to(device) for stream in streams]
        self.channels = [stream.channels for stream in streams]
        self.labels = torch.from_numpy(clips.labels[self.index.clip]).to(device)    # (N,)
        self._learner = None

    def batch(self, rows):
        """(list of uint8 (B, C, H, W), one per stream; labels (B,)) of the image rows, int64 (B,)."""
        rows = sent(rows, self.device)
        return [images[rows] for images in self.images], self.labels[rows]

    def learner(self, model, training):
        """A Learner that starts from `model`. A GPU's is reused from fold to fold: its step is recorded."""
        last = self._learner
        if last and last.training == training:
            last.restart(model)
            return last
        learner = Learner(model, training, self.device)
        if self.device.type == "cuda":
            self._learner = learner
        return learner


def train_one(experiment, data_sub, pictures, training, report):
    """Train one fold under its lock, unless it is finished; `report(Epoch)` is called after each epoch.

    Returns: False when another process holds the lock, else True. Raises: FoldError when it could not be
    trained (also written to the experiment's failed/); InputError when its start weights are others.
    """
    with experiment.fold_lock(data_sub) as mine:
        if not mine or experiment.finished(data_sub):
            return mine
        epochs = []

        def keep_and_report(epoch):
            epochs.append(epoch)
            report(epoch)

        try:
            result, model = train_fold(pictures, data_sub, training, keep_and_report)
        except FoldError as error:
            experiment.save_failure(data_sub, fold_seed(training.seed, data_sub), str(error))
            raise
        finally:
            if experiment.options.tensorboard:
                write_curves(experiment.folder / "tensorboard" / data_sub, epochs)
        if result["weights"] != experiment.weights:     # another machine of the cluster may lack the file
            raise InputError(f"fold {data_sub}: began with weights {result['weights']}, the experiment with "
                             f"{experiment.weights}; put them on every machine or use --no-pretrained")
        experiment.save(data_sub, result, model, pictures.device)
        return True


@contextlib.contextmanager
def full_gpu_explained(what, workers):
    """Context manager: turns a full memory into an InputError that begins with `what` and names a remedy."""
    try:
        yield
    except RuntimeError as error:
        if not is_full(error):
            raise
        fewer, whose = "fewer, or " if workers > 1 else "", "" if "CPU" in str(error) else "GPU's "
        raise InputError(f"{what}: the {whose}memory is full with --workers {workers}; use {fewer}a smaller "
                         "--batch-size") from error


def fold_seed(seed, data_sub):
    """Seed of one fold, below 2**48, from the run's seed and the subject alone: the folds' order is free."""
    return int.from_bytes(hashlib.sha256(f"{seed} {data_sub}".encode()).digest()[:6], "big")


def train_fold(pictures, data_sub, training, report=lambda epoch: None):
    """Train the fold that leaves `data_sub` out; `report(Epoch)` is called after each epoch.

    Returns: (dict of what the fold adds to its result file, the network after the last epoch).
    Raises: FoldError when the loss or an output is not finite.
    """
    record, device, clips = _Record(pictures.clips, data_sub, training), pictures.device, pictures.clips
    set_arithmetic(device, training.threads, training.deterministic)
    training = replace(training, precision=choose_precision(device, training.precision))
    torch.manual_seed(record.seed)                                  # initial weights, dropout
    generator = torch.Generator().manual_seed(record.seed)          # sampling and augmentation
    paper_generator = torch.Generator().manual_seed(record.seed + 1)     # the paper evaluation's rotations

    model, weights = training.network.make(pictures.channels)
    if training.network.loss is None:
        return _fit_fold(model, pictures, record, report)
    learner = pictures.learner(model, training)
    model = learner.model
    test_rows = sampling.apex_rows(pictures.index, record.test_clips)
    rotates = set(pictures.kinds) != {"motion"}     # the paper evaluation of motion is the strict one

    remedy = f"(fold seed {record.seed}); try a lower --learning-rate or --precision fp32"
    for number in range(1, training.epochs + 1):
        began, rate = time.monotonic(), learner.rate
        rows = sampling.sample_data(clips, pictures.index, record.train_clips, generator)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        loss, meter = _train_epoch(learner, pictures, rows, generator)
        if not math.isfinite(loss):
            raise FoldError(f"the loss is {loss} in epoch {number} {remedy}")
        learner.set_rate(rate * training.lr_decay)
        scores = predict(model, pictures, test_rows, training, paper_generator if rotates else None)
        if not scores.isfinite().all():
            raise FoldError(f"outputs are no numbers after epoch {number} {remedy}")
        report(record.add(loss, meter, scores[0], scores[-1], len(rows), began, rate))
    return record.result(weights, learner.how), model


def _fit_fold(model, pictures, record, report):
    """`train_fold` for a classifier without epochs (capsule.modules.svm): fitted once to all training apexes,
    and to their action units where the clip table has them; nothing is random."""
    (images,), labels = pictures.batch(sampling.apex_rows(pictures.index, record.train_clips))
    (held_out,), _ = pictures.batch(sampling.apex_rows(pictures.index, record.test_clips))
    images, labels = images.cpu().numpy(), labels.cpu().numpy()
    train = pictures.clips.table.iloc[record.train_clips]
    units = (train["data_sub"], unit_matrix(train["action_units"])) if "action_units" in train else ()
    if len(set(labels.tolist())) < 2:
        raise FoldError("the other subjects' clips are all of one class; add subjects")
    model.fit(images, labels, *units)
    scores, train_scores = (torch.from_numpy(model.scores(part)) for part in (held_out.cpu().numpy(), images))
    meter = Meter(record.classes, labels, train_scores.argmax(1))
    loss = float(1 - train_scores[torch.arange(len(labels)), torch.from_numpy(labels)].mean())
    report(record.add(loss, meter, scores, scores, len(labels), record.started, 0.0))
    return record.result("none"), model


class _Record:
    """Collects what a fold's epochs gave, for its result file, the log and the curves."""

    def __init__(self, clips, data_sub, training):
        self.started, self.data_sub, self.classes = time.monotonic(), data_sub, training.network.classes
        self.seed, self.n_images = fold_seed(training.seed, data_sub), 0
        self.train_clips, self.test_clips = sampling.data_split(clips, data_sub)
        self.clips = clips.table.iloc[self.test_clips][["data", "subject", "clip"]].to_dict("records")
        self.truth = torch.from_numpy(clips.labels[self.test_clips])
        self.epochs = {"loss": [], "train_uf1": [], "paper": [], "strict": []}

    def add(self, loss, meter, strict, paper, n_images, began, rate):
        """Add an epoch that began at `time.monotonic()` `began`. Returns: the `Epoch`.

        loss, meter: of its `n_images` training images. strict, paper: held-out clips' scores (n, classes).
        """
        self.scores, predicted = strict, {"strict": strict.argmax(1), "paper": paper.argmax(1)}
        self.n_images += n_images
        self.epochs["loss"].append(round(loss, 8))
        self.epochs["train_uf1"].append(round(meter.uf1, 6))
        for name, classes in predicted.items():
            self.epochs[name].append(classes.tolist())
        own = {name: Meter(self.classes, self.truth, classes) for name, classes in predicted.items()}
        return Epoch(self.data_sub, len(self.epochs["loss"]), self.epochs["loss"][-1], meter.uf1, meter.uar,
                     {name: one.subject_uf1 for name, one in own.items()},
                     {name: one.accuracy for name, one in own.items()}, rate,
                     n_images / (time.monotonic() - began))

    def result(self, weights, how=None):
        """dict for the result file; "lengths" are the last epoch's strict scores. how: `Learner.how`."""
        seconds, step = time.monotonic() - self.started, {"step": how} if how else {}
        return {"fold_seed": self.seed, "weights": weights, "clips": self.clips,
                "y_true": self.truth.tolist(),
                "lengths": [[round(float(x), 6) for x in row] for row in self.scores], **self.epochs, **step,
                "seconds": round(seconds, 3), "images_per_second": round(self.n_images / seconds, 3)}


def _train_epoch(learner, pictures, rows, generator):
    """One pass over the image rows (n,). Returns: mean loss (nan if a batch's was), Meter of the outputs."""
    learner.model.train()
    training = learner.training
    total, predicted, labels = torch.zeros((), device=pictures.device), [], []
    for inputs, truth in batches(pictures, rows, augment.draw(len(rows), generator), training.batch_size):
        outputs, loss = learner.learn(inputs, truth)
        total += loss * len(truth)      # stays on the GPU: to read it would wait for each step
        predicted.append(outputs.argmax(1))
        labels.append(truth)
    return float(total) / len(rows), Meter(training.network.classes, torch.cat(labels), torch.cat(predicted))


def batches(pictures, rows, draws, batch_size):
    """Yield (list of float (B, C, side, side), one a stream; labels (B,)) for each training batch of `rows`,
    augmented by their `draws` (augment.Draws); on a GPU several batches in one go."""
    at_once = max(1, AUGMENTED_AT_ONCE[pictures.device.type] // batch_size) * batch_size
    for first in range(0, len(rows), at_once):
        part = slice(first, first + at_once)
        images, labels = pictures.batch(rows[part])
        inputs = augment.train_batch(images, pictures.kinds, draws[part], pictures.side)
        streams = zip(*(stream.split(batch_size) for stream in inputs), strict=True)
        yield from zip(map(list, streams), labels.split(batch_size), strict=True)


def predict(model, pictures, rows, training, paper_generator=None):
    """Scores in [0, 1] of n image rows, float32 (evaluations, n, classes) on the CPU.

    The strict evaluation alone, or with a generator for its rotations the paper's too, in this order.
    """
    model.eval()
    tune_convolutions(False)
    outputs = []
    for part in rows.split(PREDICT_BATCH):
        images, _ = pictures.batch(part)
        evaluated = [augment.strict_batch(images, pictures.side)]
        if paper_generator:
            evaluated.append(augment.paper_eval_batch(images, pictures.kinds, paper_generator, pictures.side))
        inputs = [torch.cat(stream) for stream in zip(*evaluated, strict=True)]   # (evaluations·B, C, H, W)
        with torch.inference_mode(), autocast_for(pictures.device, training.precision):
            scores = training.network.scores(model(*training.network.prepared(inputs)).float())
        outputs.append(scores.cpu().unflatten(0, (len(evaluated), -1)))          # → (evaluations, B, classes)
    return torch.cat(outputs, 1)
