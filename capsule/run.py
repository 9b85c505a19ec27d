"""The one training loop: leave one subject out, train on the rest, predict the one, after every epoch."""

import math
import time

import torch
from tqdm import tqdm

from capsule.device import choose_device, set_arithmetic, tune_convolutions
from capsule.experiment import Experiment, environment, fold_seed
from capsule.inputs import augment, sampling
from capsule.loss import me_loss
from capsule.record import Curves
from capsule.step import choose_precision, make_step, predict

PREDICT_BATCH = 64
AUGMENTED_AT_ONCE = {"cpu": 1, "cuda": 128}    # images, at least one batch


class FoldError(Exception):
    """A fold that could not be trained (its loss was not a number); the other folds go on."""


def run_loso(config, clips, streams, make_model, loss=me_loss):
    """Train and evaluate every fold that is not finished; write one JSON a fold (SPEC section 7).

    `streams`: list of FrameImages (crops, views), rows alike, in the order of the network's arguments.
    `make_model()`: a fresh network; `loss(output (B, classes), labels (B,))`: a scalar.
    Returns: 0, or 1 when a fold failed. Raises: InputError for an unusable configuration.
    """
    device = choose_device(config.device)
    experiment = Experiment(config, clips, _facts(config, streams, make_model, device))
    experiment.start()
    folds = experiment.chosen()
    todo = [fold for fold in folds if not experiment.finished(fold)]
    print(
        f"{experiment.name}: {len(clips.table)} clips, {len(experiment.folds)} subjects, on {device}; "
        f"{len(folds) - len(todo)} of {len(folds)} folds are finished already, {len(todo)} to train"
    )
    if config.workers > 1 and todo:
        from capsule.parallel import train_in_parallel

        failed = train_in_parallel(experiment, todo, streams, make_model, loss)
    elif todo:
        failed = train_in_turn(experiment, todo, Trainer(experiment, streams, make_model, loss, device))
    else:
        failed = {}
    return _report(experiment, folds, failed)


def _facts(config, streams, make_model, device):
    """What the run found out and that changes its numbers: part of the experiment's identity."""
    pretrained = getattr(make_model(), "pretrained", False)
    reconstructor = next((s.notes["reconstructor"] for s in streams if "reconstructor" in s.notes), None)
    return {
        "images": len(streams[0].clip),
        "streams": [stream.kind for stream in streams],
        "reconstructor": reconstructor,
        "pretrained": bool(pretrained),
        "precision": choose_precision(device, config.precision),
    }


def _report(experiment, folds, failed):
    """Print how the folds ended. Returns: 1 when any failed, else 0."""
    for data_sub, reason in sorted(failed.items()):
        print(f"fold {data_sub} failed: {reason}")
    done = sum(experiment.finished(fold) for fold in folds)
    root = experiment.config.result_root
    command = "python get_result_log.py" + ("" if root == "result" else f" --result-root {root}")
    print(f"{done} of {len(folds)} folds are in {experiment.folder}; the table: {command}")
    return 1 if failed else 0


def train_in_turn(experiment, todo, trainer):
    """Train the folds `todo` in this process, sharing them with any other run in the same folder.

    Returns: dict of the folds that failed → reason.
    """
    waiting, failed = list(todo), {}
    with tqdm(total=len(todo), desc="folds", unit="fold") as bar:
        while waiting:
            before = len(waiting)
            for data_sub in list(waiting):
                state = train_one(experiment, data_sub, trainer)
                if state == "busy":
                    bar.set_postfix_str(f"{data_sub} is being trained by another run")
                    continue
                waiting.remove(data_sub)
                bar.update()
                if state != "done":
                    failed[data_sub] = state
            if len(waiting) == before:
                time.sleep(1.0)
    return failed


def train_one(experiment, data_sub, trainer):
    """Train one fold under its lock: "done", "busy" (another process has it) or the reason why it failed."""
    with experiment.fold_lock(data_sub) as mine:
        if not mine:
            return "busy"
        if experiment.finished(data_sub):
            return "done"
        seed = fold_seed(experiment.config.seed, data_sub)
        try:
            result, model = trainer.train(data_sub, seed)
        except FoldError as error:
            experiment.save_failure(data_sub, seed, str(error))
            return str(error)
        experiment.save(data_sub, result, model)
        return "done"


class Trainer:
    """Trains single folds of an experiment; the images stay on the device from fold to fold.

    `report`: called after each epoch with (data_sub, epoch); None shows a progress bar of the fold's epochs.
    """

    def __init__(self, experiment, streams, make_model, loss, device, report=None):
        self.experiment, self.config, self.clips = experiment, experiment.config, experiment.clips
        self.make_model, self.loss, self.device, self.report = make_model, loss, device, report
        self.precision = choose_precision(device, self.config.precision)
        set_arithmetic(device, self.config.cpu_threads, self.config.deterministic)
        self.index = streams[0]  # rows are alike in all streams
        self.images = [augment.shrunk(stream.images, self.config.input_size).to(device) for stream in streams]
        self.labels = torch.from_numpy(self.clips.labels[self.index.clip]).to(device)  # (N,) one an image

    def train(self, data_sub, seed):
        """Train the fold that leaves `data_sub` out, evaluating it both ways after every epoch.

        Returns: (the result part of the fold's JSON, the network after its last epoch).
        Raises: FoldError when the loss is not a number.
        """
        started, config = time.monotonic(), self.config
        torch.manual_seed(seed)  # initial weights, dropout
        draws = torch.Generator().manual_seed(seed)  # sampling and augmentation
        noise = torch.Generator().manual_seed(seed + 1)  # the paper evaluation's rotations
        model = self.make_model().to(self.device)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.Adam(trained, lr=config.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, gamma=config.lr_decay)
        step = make_step(model, optimiser, self.loss, self.device, self.precision)
        train_clips, test_clips = sampling.data_split(self.clips, data_sub)
        test_rows = sampling.apex_rows(self.index, test_clips)
        curves = self._curves(data_sub, test_clips)
        seen = 0
        for epoch in self._epochs(data_sub):
            began = time.monotonic()
            rows = sampling.sample_data(self.clips, self.index, train_clips, draws)
            loss = self._train_epoch(step, rows, draws)
            if not math.isfinite(loss):
                raise FoldError(
                    f"the loss is {loss} in epoch {epoch + 1} (fold seed {seed}); try a lower "
                    "--learning-rate or --precision fp32"
                )
            schedule.step()
            lengths = self._predict(model, test_rows)
            paper = self._predict(model, test_rows, noise)
            seen, rate = seen + len(rows), len(rows) / (time.monotonic() - began)
            curves.add(
                loss, optimiser.param_groups[0]["lr"], rate, paper=paper.argmax(1), strict=lengths.argmax(1)
            )
            self._show(data_sub, epoch, loss, rate)
        return self._result(seed, test_clips, lengths, curves, seen, time.monotonic() - started), model

    def _result(self, seed, test_clips, lengths, curves, seen, seconds):
        """The result part of a fold's JSON."""
        names = self.clips.table.iloc[test_clips][["data", "subject", "clip"]].to_dict("records")
        return {
            "fold_seed": seed,
            "environment": environment(self.device, self.precision),
            "clips": names,
            "y_true": [int(label) for label in self.clips.labels[test_clips]],
            "lengths": [[round(float(x), 6) for x in row] for row in lengths],
            **curves.close(),
            "seconds": round(seconds, 3),
            "images_per_second": round(seen / seconds, 3),
        }

    def _curves(self, data_sub, test_clips):
        folder = self.experiment.folder / "tensorboard" / data_sub if self.config.tensorboard else None
        return Curves(self.clips.labels[test_clips], self.clips.n_classes, folder)

    def _epochs(self, data_sub):
        """Iterator over epoch numbers, a progress bar where nobody else reports."""
        epochs = range(self.config.epochs)
        if self.report is not None:
            return epochs
        self.bar = tqdm(epochs, desc=data_sub, unit="epoch", leave=False)
        return self.bar

    def _show(self, data_sub, epoch, loss, rate):
        if self.report is not None:
            self.report(data_sub, epoch)
        else:
            self.bar.set_postfix_str(f"loss {loss:.4f}, {rate:.1f} images/s")

    def _train_epoch(self, step, rows, draws):
        """One pass over the image rows, shuffled. Returns: the mean loss, nan if any batch's was."""
        rows = rows[torch.randperm(len(rows), generator=draws)]
        total = torch.zeros((), device=self.device)
        for inputs, labels in self._batches(rows, augment.draw(len(rows), draws)):
            tune_convolutions(len(labels) == self.config.batch_size)
            total += step(inputs, labels) * len(labels)
        return float(total) / len(rows)

    def _batches(self, rows, draw):
        """(inputs, labels) of each training batch; on a GPU several batches are augmented in one go."""
        size = self.config.batch_size
        at_once = max(1, AUGMENTED_AT_ONCE[self.device.type] // size) * size
        for first in range(0, len(rows), at_once):
            part = slice(first, first + at_once)
            chosen = rows[part].to(self.device)
            inputs = augment.train_batch([images[chosen] for images in self.images], draw[part],
                                         self.config.input_size)
            streams = zip(*(stream.split(size) for stream in inputs), strict=True)
            yield from zip(map(list, streams), self.labels[chosen].split(size), strict=True)

    def _predict(self, model, rows, noise=None):
        """Outputs (n, classes) of image rows: the strict evaluation, or with a generator the paper's."""
        outputs = []
        tune_convolutions(False)
        for batch in rows.split(PREDICT_BATCH):
            images = [stream[batch.to(self.device)] for stream in self.images]
            if noise is None:
                inputs = augment.strict_batch(images, self.config.input_size)
            else:
                inputs = augment.paper_eval_batch(images, len(batch), noise, self.config.input_size)
            outputs.append(predict(model, inputs, self.device, self.precision).float().cpu())
        return torch.cat(outputs)  # (n, classes)
