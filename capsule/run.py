"""The leave-one-subject-out loop: skip finished folds, train the others here or on Ray, log the progress."""

import contextlib
import sys
import time

from tqdm import tqdm

from capsule.data.remarks import line
from capsule.device import choose_precision
from capsule.experiment import Experiment
from capsule.fold import Epoch, FoldError, Pictures, Training, full_gpu_explained, train_one
from capsule.inputs.crops import NO_NEIGHBOURS
from capsule.learner import is_compiled
from capsule.metrics import Meter
from common.device import choose_device
from common.errors import InputError


def run_loso(options, clips, streams, network):
    """Train and evaluate every fold that is not finished; write one JSON file per fold (SPEC section 7).

    options: capsule.config.Options. streams: list of FrameImages (crops, views, motion) of the same frames in
    the same order, one for each argument of the network. network: capsule.modules.Network.
    Returns: 0, or 1 when a fold failed: the exit code. Raises: InputError for an unusable configuration.
    """
    with _cluster(options, streams) as cluster:
        device = choose_device("cpu" if cluster else options.device)
        model, weights = network.make([stream.channels for stream in streams])
        precision = _precision(options, network, cluster, device)
        threads = options.threads or int(options.quick or network.is_small)    # a second gains these nothing
        training = Training(network, options.epochs, options.batch_size, options.learning_rate,
                            options.lr_decay, options.seed, precision, threads, options.deterministic)
        remarks = network.remarks(model)
        experiment = Experiment(options, clips, streams, network, weights, precision, remarks)
        experiment.start()
        log = Log(experiment, training.epochs if network.loss else 1)
        log.begin(f"Ray, {options.workers} workers" if cluster else device, model)
        for remark in remarks:
            log.say(line(remark))
        todo = [data_sub for data_sub in experiment.chosen
                if not log.count(experiment.finished(data_sub, log.say))]
        log.say(f"{len(experiment.chosen) - len(todo)} of {len(experiment.chosen)} folds are finished "
                f"already, {len(todo)} to train")
        failed = {}
        if todo and cluster:
            failed = cluster.train(experiment, todo, training, log)
        elif todo:
            if is_compiled(training, device):
                log.say("  the first fold compiles its step, which takes about a minute")
            with full_gpu_explained("training", options.workers):
                pictures = Pictures(clips, streams, network, device)
                failed = train_in_turn(experiment, todo, pictures, training, log)
        return log.end(failed)


def _precision(options, network, cluster, device):
    """"fp32" or "bf16", as the device computes that trains: here, or one of a Ray cluster."""
    if network.is_small and options.precision == "auto":
        return "fp32"                                       # bf16 gains such a network nothing
    return cluster.precision() if cluster else choose_precision(device, options.precision)


def _cluster(options, streams):
    """Context manager: a `Cluster` where --workers or --ray-address asks for Ray; else None."""
    if options.workers == 1 and not options.ray_address:
        return contextlib.nullcontext()
    from capsule.parallel import Cluster  # here: Ray takes seconds to import

    return Cluster(options, streams)


def train_in_turn(experiment, todo, pictures, training, log):
    """Train the folds `todo` in this process; one that another run in this folder trains is waited for.

    Returns: dict of the folds that failed → reason.
    """
    waiting, failed = list(todo), {}
    while waiting:
        busy = []
        for data_sub in waiting:
            try:
                if not train_one(experiment, data_sub, pictures, training, log.epoch):
                    busy.append(data_sub)
                    continue
            except FoldError as error:
                failed[data_sub] = str(error)
            log.fold(data_sub, experiment.finished(data_sub))
        if busy == waiting:
            time.sleep(1.0)
        waiting = busy
    return failed


class Log:
    """The progress of a run: a line per epoch and per fold in log.txt and on the screen; on a terminal a bar
    takes the place of the epochs' lines."""

    def __init__(self, experiment, epochs):
        self.experiment, self.epochs = experiment, epochs
        self.fold_number = {data_sub: i + 1 for i, data_sub in enumerate(experiment.folds)}
        self.meter, self.n_finished = Meter(experiment.clips.n_classes), 0
        self.path = experiment.folder / "log.txt"
        self.bar = tqdm(total=len(experiment.chosen), unit="fold", dynamic_ncols=True,
                        disable=not (sys.stderr.isatty() and sys.stdout.isatty()))

    def say(self, line, screen=True):
        """Append a line to log.txt and print it. Raises: InputError when the file cannot be written."""
        try:
            with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line + "\n")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); free some disk space or "
                             "choose a --result-root that you may write to") from error
        if screen:
            tqdm.write(line)
            sys.stdout.flush()

    def begin(self, device, model):
        """Say what is trained, on which device, from which weights. model: of `Network.make`."""
        experiment = self.experiment
        frozen = sum(not parameter.requires_grad for parameter in getattr(model, "parameters", list)())
        self.say(f"{experiment.name}: {len(experiment.clips.table)} clips, {len(experiment.folds)} subjects, "
                 f"on {device}; weights {experiment.weights}, {frozen} parameters frozen")
        if experiment.reconstructor:
            files = ", ".join(f"{name} {digest}" for name, digest in experiment.model_files.items())
            self.say(f"  3-D faces by {experiment.reconstructor}: {files}")
        lacking = sum(remark["count"] for remark in experiment.said if remark["what"] == NO_NEIGHBOURS)
        draws_again = experiment.options.streams != "pictures" and experiment.network.loss  # an SVM has none
        if lacking and draws_again:    # of single pictures, views take the neighbours' place
            self.say(f"  {lacking} clips lack neighbours of their apex; to balance the classes an epoch "
                     "draws their apex again in their place")

    def epoch(self, epoch: Epoch):
        """Log one epoch; on a terminal the bar shows it."""
        facts = (f"epoch {epoch.number}/{self.epochs}  loss {epoch.loss:.4f}  "
                 f"train UF1 {epoch.train_uf1:.3f}  strict UF1 {epoch.uf1['strict']:.3f}  "
                 f"{epoch.images_per_second:.1f} images/s")
        line = f"fold {self.fold_number[epoch.data_sub]}/{len(self.fold_number)} {epoch.data_sub}  {facts}"
        self.say(line, screen=self.bar.disable)
        self.bar.set_postfix_str(f"{epoch.data_sub} {facts}")

    def count(self, fold):
        """Add a finished fold to the pooled scores; None adds nothing. Returns: `fold`."""
        if fold is not None:
            self.meter.add(fold.y_true, fold.predictions["strict"][-1])
            self.n_finished += 1
            self.bar.update()
        return fold

    def fold(self, data_sub, fold):
        """Log a fold that has just ended (None: failed, which `end` says) and the pooled scores so far."""
        if self.count(fold):
            hits = int((fold.y_true == fold.predictions["strict"][-1]).sum())
            self.say(f"fold {self.fold_number[data_sub]}/{len(self.fold_number)} {data_sub} done: {hits} of "
                     f"{len(fold.y_true)} right; pooled over {self.n_finished} folds (strict): "
                     f"UF1 {self.meter.uf1:.4f}, UAR {self.meter.uar:.4f}")

    def end(self, failed):
        """Say how the folds ended. Returns: 1 when any failed, else 0."""
        self.bar.close()
        for data_sub, reason in sorted(failed.items()):
            self.say(f"fold {data_sub} failed: {reason}")
        root = self.experiment.options.result_root
        command = "python get_result_log.py" + ("" if root == "result" else f" --result-root {root}")
        self.say(f"{self.n_finished} of {len(self.experiment.chosen)} folds are in {self.experiment.folder}; "
                 f"the table: {command}")
        return 1 if failed else 0
