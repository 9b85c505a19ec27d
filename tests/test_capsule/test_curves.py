"""TensorBoard's curves of a fold."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from capsule.curves import write_curves
from capsule.fold import Epoch


def epoch(number, loss):
    return Epoch("casme_sub01", number, loss, 0.5, 0.25, {"strict": 0.75, "paper": 1.0},
                 {"strict": 0.5, "paper": 0.0}, 1e-4, 8.0)


def test_every_epoch_is_in_the_curves_and_what_was_there_is_not(tmp_path):
    folder = tmp_path / "tensorboard" / "casme_sub01"
    write_curves(folder, [epoch(1, 4.0)])                    # of a run that was stopped
    write_curves(folder, [epoch(1, 2.0), epoch(2, 0.5)])
    read = EventAccumulator(str(folder))
    read.Reload()
    assert [(one.step, one.value) for one in read.Scalars("loss")] == [(1, 2.0), (2, 0.5)]
    assert [one.value for one in read.Scalars("uf1/strict")] == [0.75, 0.75]
    assert [one.value for one in read.Scalars("accuracy/paper")] == [0.0, 0.0]
    assert {"train_uf1", "train_uar", "learning_rate", "images_per_second"} <= set(read.Tags()["scalars"])


def test_curves_that_cannot_be_written_are_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="no curves of this fold"):
        write_curves(tmp_path / "file" / "casme_sub01", [epoch(1, 2.0)])
