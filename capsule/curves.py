"""TensorBoard curves of one fold. A curve that cannot be written loses no trained fold."""

import shutil
import warnings

SCALARS = ("loss", "train_uf1", "train_uar", "learning_rate", "images_per_second")


class Curves:
    """Context manager: `add(Epoch)` writes event files into `folder` (None: nothing).

    What an interrupted run left in the folder is removed first; the files are closed however the fold ends.
    """

    def __init__(self, folder=None):
        self.folder, self.writer = folder, None

    def __enter__(self):
        if self.folder is not None:
            self._try(self._open)
        return self

    def add(self, epoch):
        """The scalars of one epoch (capsule.fold.Epoch)."""
        if self.writer is not None:
            self._try(self._write, epoch)

    def __exit__(self, *error):
        if self.writer is not None:
            self._try(self.writer.close)

    def _open(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
        shutil.rmtree(self.folder, ignore_errors=True)
        self.writer = SummaryWriter(str(self.folder), max_queue=1000, flush_secs=600)

    def _write(self, epoch):
        for name in SCALARS:
            self.writer.add_scalar(name, getattr(epoch, name), epoch.number)
        for name in epoch.uf1:
            self.writer.add_scalar(f"uf1/{name}", epoch.uf1[name], epoch.number)
            self.writer.add_scalar(f"accuracy/{name}", epoch.accuracy[name], epoch.number)

    def _try(self, action, *arguments):
        try:
            action(*arguments)
        except (OSError, RuntimeError) as error:
            warnings.warn(f"{self.folder}: no curves of this fold ({error})", stacklevel=2)
            self.writer = None
