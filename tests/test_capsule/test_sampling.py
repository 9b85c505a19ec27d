"""The epochs' training lists: what is drawn, how often, from whom."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capsule.inputs.sampling import apex_rows, data_split, neighbours_per_class, sample_data
from common.errors import InputError


def table_of(labels, subjects):
    """A stand-in for Clips: labels and data_sub by row."""
    table = pd.DataFrame({"data_sub": subjects, "label": labels})
    return SimpleNamespace(table=table, labels=np.array(labels, np.int64))


def frames_of(offsets):
    """A stand-in for FrameImages: `offsets` lists each clip's frames."""
    clip = np.repeat(np.arange(len(offsets)), [len(of_clip) for of_clip in offsets])
    offset = np.concatenate([np.array(o, np.int64) for o in offsets])
    return SimpleNamespace(clip=clip, offset=offset, is_apex=offset == 0)


ALL = [-2, -1, 0, 1, 2]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_split_by_subject():
    clips = table_of([0, 1, 2, 0], ["a", "b", "a", "c"])
    train, test = data_split(clips, "a")
    assert train.tolist() == [1, 3] and test.tolist() == [0, 2]


@pytest.mark.parametrize("subjects,held_out", [(["a", "b"], "c"), (["a", "a"], "a")])
def test_impossible_split_is_refused(subjects, held_out):
    with pytest.raises(InputError, match=held_out):
        data_split(table_of([0, 1], subjects), held_out)


def test_apex_rows_follow_the_clips_given():
    frames = frames_of([[-1, 0], [0, 1, 2], ALL])
    assert apex_rows(frames, np.array([2, 0])).tolist() == [7, 1]
    with pytest.raises(InputError, match="no apex"):
        apex_rows(frames_of([[0], [1, 2]]), np.array([0, 1]))


def test_numbers_of_neighbours_by_hand():
    assert neighbours_per_class([0] * 10 + [1] * 4 + [2] * 2) == {0: 0.0, 1: 1.5, 2: 4.0}
    assert neighbours_per_class([0] * 248 + [1] * 109 + [2] * 83) == pytest.approx(
        {0: 5 * 83 / 248 - 1, 1: 5 * 83 / 109 - 1, 2: 4})
    assert neighbours_per_class([0] * 11 + [2]) == {0: 0.0, 2: 4.0}    # 5/11 − 1 is below 0


def test_every_apex_once_and_no_frame_twice():
    labels = [0] * 6 + [1] * 3 + [2] * 2
    clips, frames = table_of(labels, ["s"] * 11), frames_of([ALL] * 11)
    rows = sample_data(clips, frames, np.arange(11), generator()).numpy()
    assert len(set(rows)) == len(rows)
    assert sorted(frames.clip[rows[frames.offset[rows] == 0]]) == list(range(11))
    per_clip = np.bincount(frames.clip[rows], minlength=11)
    assert (per_clip[9:] == 5).all()                          # the rarest class: everything
    assert set(per_clip[:6]) <= {1, 2}                        # k = 2/3
    assert set(per_clip[6:9]) <= {3, 4}                       # k = 7/3


def test_fractions_and_frames_come_out_in_their_proportion():
    labels = [0] * 300 + [1] * 200
    clips, frames = table_of(labels, ["s"] * 500), frames_of([ALL] * 500)
    rows = sample_data(clips, frames, np.arange(500), generator()).numpy()
    drawn = rows[frames.offset[rows] != 0]
    of_first = drawn[frames.clip[drawn] < 300]
    assert len(of_first) == pytest.approx(300 * (5 * 200 / 300 - 1), rel=0.05)
    per_offset = np.bincount(frames.offset[of_first] + 2, minlength=5)
    assert per_offset[2] == 0 and per_offset.min(initial=999, where=[1, 1, 0, 1, 1]) > 140   # 175 expected


def test_each_epoch_draws_afresh_and_a_seed_repeats_it():
    clips, frames = table_of([0] * 30 + [1] * 20, ["s"] * 50), frames_of([ALL] * 50)
    draws = generator()
    first, second = (sample_data(clips, frames, np.arange(50), draws) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, sample_data(clips, frames, np.arange(50), generator()))


def test_held_out_clips_bring_no_image_and_their_labels_nothing():
    subjects = ["a"] * 4 + ["b"] * 8
    clips = table_of([0, 1, 2, 2, 0, 0, 0, 1, 1, 2, 0, 1], subjects)
    changed = table_of([2, 0, 0, 1, 0, 0, 0, 1, 1, 2, 0, 1], subjects)
    frames = frames_of([ALL] * 12)
    train, _ = data_split(clips, "a")
    rows = sample_data(clips, frames, train, generator(3))
    assert set(frames.clip[rows]) == set(train)
    assert torch.equal(rows, sample_data(changed, frames, train, generator(3)))


OFFSETS = st.sets(st.sampled_from([-2, -1, 1, 2]))
CLIPS = st.lists(st.tuples(st.integers(0, 2), OFFSETS), min_size=2, max_size=15)


@given(CLIPS, st.integers(0, 2**31))
def test_each_clip_brings_its_number_its_frames_first(clips_drawn, seed):
    """Where neighbours lack, the apex is drawn again: k, or one more, pictures beside it in any case."""
    labels = [label for label, _ in clips_drawn]
    frames = frames_of([sorted({0} | offsets) for _, offsets in clips_drawn])
    clips = table_of(labels, ["s"] * len(labels))
    rows = sample_data(clips, frames, np.arange(len(labels)), generator(seed)).numpy()
    wanted = neighbours_per_class(labels)
    for clip, (label, offsets) in enumerate(clips_drawn):
        own = rows[frames.clip[rows] == clip]
        assert int(wanted[label]) <= len(own) - 1 <= int(np.ceil(wanted[label]))
        neighbours = own[frames.offset[own] != 0]
        assert len(set(neighbours)) == len(neighbours) == min(len(offsets), len(own) - 1)


def test_classes_are_balanced_where_no_neighbour_is_on_disk():
    clips, frames = table_of([0] * 20 + [1] * 10 + [2] * 5, ["s"] * 35), frames_of([[0]] * 35)
    rows = sample_data(clips, frames, np.arange(35), generator()).numpy()
    counts = np.bincount(clips.labels[frames.clip[rows]])
    assert counts[2] == 25 and abs(counts[0] - 25) < 8 and counts[1] in range(20, 31)
