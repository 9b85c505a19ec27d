"""What a fold leaves behind epoch by epoch: its predictions and loss, and TensorBoard curves of them."""

import shutil
import warnings

from capsule.evaluations import Meter

EVALUATIONS = ("paper", "strict")


class Curves:
    """Collects one fold's epochs; with `folder`, writes TensorBoard event files there.

    What an interrupted run left in the folder is removed first.

    `labels`: true classes of the fold's clips, used for the curves' figures alone.
    """

    def __init__(self, labels, classes, folder=None):
        self.labels, self.classes = list(labels), classes
        self.loss = []
        self.predictions = {name: [] for name in EVALUATIONS}  # [epoch][clip]
        self.writer = None
        if folder is not None:
            self.writer = _event_writer(folder)

    def add(self, loss, learning_rate, images_per_second, **predictions):
        """One epoch: mean training loss; `paper` and `strict` predictions, int tensors (clips,)."""
        self.loss.append(round(float(loss), 8))
        for name in EVALUATIONS:
            self.predictions[name].append([int(label) for label in predictions[name]])
        if self.writer is not None:
            epoch = len(self.loss)
            self.writer.add_scalar("loss/train", loss, epoch)
            self.writer.add_scalar("learning_rate", learning_rate, epoch)
            self.writer.add_scalar("images_per_second", images_per_second, epoch)
            for name in EVALUATIONS:
                meter = Meter(self.classes)
                meter.add(self.labels, self.predictions[name][-1])
                self.writer.add_scalar(f"accuracy/{name}", meter.accuracy, epoch)
                self.writer.add_scalar(f"uf1/{name}", meter.uf1, epoch)

    def close(self):
        """Finish the event files. Returns: dict of loss, paper and strict, as the fold's JSON stores them."""
        if self.writer is not None:
            self.writer.close()
        return {"loss": self.loss, **self.predictions}


def _event_writer(folder):
    """A TensorBoard writer into `folder`, emptied."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.utils.tensorboard import SummaryWriter
    shutil.rmtree(folder, ignore_errors=True)
    return SummaryWriter(str(folder), max_queue=1000, flush_secs=600)
