"""TensorBoard curves of one fold. A curve that cannot be written loses no trained fold."""

import shutil
import warnings

SCALARS = ("loss", "train_uf1", "train_uar", "learning_rate", "images_per_second")


def write_curves(folder, epochs):
    """Event files of a fold's `epochs` (capsule.fold.Epoch) in `folder`, in place of any there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
        shutil.rmtree(folder, ignore_errors=True)
        with SummaryWriter(str(folder)) as writer:
            for epoch in epochs:
                for name in SCALARS:
                    writer.add_scalar(name, getattr(epoch, name), epoch.number)
                for name in epoch.uf1:
                    writer.add_scalar(f"uf1/{name}", epoch.uf1[name], epoch.number)
                    writer.add_scalar(f"accuracy/{name}", epoch.accuracy[name], epoch.number)
    except (OSError, RuntimeError) as error:
        warnings.warn(f"{folder}: no curves of this fold ({error})", stacklevel=2)
