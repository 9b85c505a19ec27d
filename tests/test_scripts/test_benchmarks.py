"""The benchmarks: that both loops are given the same work, and that the tables come out."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch

from benchmarks import __main__ as bench
from benchmarks import glasses_on
from benchmarks.generated import NAMES, generated
from benchmarks.landmark_svm import landmarks, mesh_points, movements, of_points
from benchmarks.training import (
    PER_CLASS,
    TASKS,
    TEST_CLIPS,
    PlainData,
    flops_of_image,
    write_pictures,
)
from capsule.inputs.sampling import data_split, sample_data
from capsule.modules import Network
from common.errors import InputError
from deca.face_mesh import FaceMesh
from deca.landmarks import LandmarkDetector
from tests.fake_runs import change_json, said_strictly
from tests.test_scripts.test_grad_cam import make_run


def test_pictures_of_a_class_are_alike_and_a_seed_repeats_them():
    clips, (crops,) = generated([6], size=32)
    again = generated([6], size=32)[1][0]
    assert torch.equal(crops.images, again.images) and clips.labels.tolist() == [0, 1, 2, 0, 1, 2]

    def distance(a, b):
        return (crops.images[5 * a].float() - crops.images[5 * b].float()).abs().mean()

    assert distance(0, 3) < distance(0, 1)    # the same class


def test_an_epoch_on_a_gpu_is_the_composites():
    clips, (crops,) = generated([TEST_CLIPS, len(NAMES) * round(bench.IMAGES["cuda"] / PER_CLASS)], size=8)
    train, test = data_split(clips, clips.subjects[0])
    rows = sample_data(clips, crops, train, torch.Generator().manual_seed(0))
    assert len(rows) == 1245 and len(test) == TEST_CLIPS


def test_the_plain_loop_reads_what_ours_holds(tmp_path):
    _, streams = generated([4], (3, 13), 152)
    data = PlainData(write_pictures(tmp_path, streams), (3, 13), 152, length=6)
    data.transform = lambda pictures: pictures
    (crop, views), label = data[5]    # goes round: the second clip
    assert crop.shape == (3, 152, 152) and views.shape == (39, 152, 152) and label == 5 % 3
    assert torch.allclose(crop, streams[0].images[7] / 255, atol=0.1)
    grey = views.unflatten(0, (13, 3))
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert torch.allclose(grey[:, 0], streams[1].images[7] / 255, atol=0.1)


def test_landmarks_move_as_the_face_does_and_aligned_not_with_the_head():
    clips, (crops,) = generated([2], size=8)
    photo = skimage.data.astronaut()[0:224, 110:334]
    onsets, apexes = [photo] * 2, [np.roll(photo, 5, 1), np.zeros_like(photo)]     # the second: no face
    onsets[1] = apexes[1]
    onsets, apexes = (torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2)) for images in (onsets, apexes))
    crops = replace(crops, clips=replace(clips, table=clips.table[:2]), images=apexes, clip=np.arange(2),
                    is_apex=np.ones(2, bool), onsets=onsets, has_onset=np.ones(2, bool))
    plain, aligned = movements(crops)
    assert np.abs(plain[0].reshape(68, 2) - (5, 0)).mean() < 0.5 and np.abs(aligned[0]).mean() < 0.5
    assert not plain[1].any() and not aligned[1].any()
    with pytest.raises(InputError, match="1 clips have no onset"):
        movements(replace(crops, has_onset=np.array([True, False])))
    apex, (flat, points) = landmarks(crops), mesh_points(crops)
    onset = LandmarkDetector().detect(photo).points.ravel()
    assert np.abs(apex[0] - onset - plain[0]).mean() < 0.5 and np.isnan(apex[1]).all()
    mean = FaceMesh().mean
    assert np.abs(points[1] - mean.ravel()).max() < 1e-6        # no face: the mean one
    moved = replace(crops, images=onsets)                       # the head elsewhere, the same 3-D face
    shift = (flat - mesh_points(moved)[0])[0].reshape(468, 2) * 112          # image space → pixels
    assert np.abs(np.median(shift, 0) - (5, 0)).max() < 0.5
    assert points.shape == (2, 1404) and np.abs(points[0] - mesh_points(moved)[1][0]).mean() < 0.003
    assert np.abs(points[0] - mean.ravel()).max() > 0.005


def test_points_that_tell_the_class_are_told_and_missing_ones_are_their_mean():
    clips, _ = generated([4, 4, 4], size=8)
    told = np.random.default_rng(0).normal(size=(12, 3)) * 0.1
    told[np.arange(12), clips.labels] += 3
    assert of_points(clips, told)[0] == 1
    told[0] = np.nan
    assert 0.8 < of_points(clips, told)[0] <= 1
    assert of_points(clips, np.random.default_rng(1).normal(size=(12, 6)))[0] < 0.8


def test_work_by_hand():
    # SPEC section 7: 5 * n_rarest images of each class
    assert bench.COMPOSITE_PASSES == 30 * (5 * 3) * 83 * 67
    flops = flops_of_image(TASKS[0], Network("resnet", 3, pretrained=False), torch.device("cpu"))
    assert 43e9 < flops < 47e9


def test_the_tables_come_out(capsys):
    bench.main(["--quick", "--device", "cpu", "--threads", "1"])
    text = capsys.readouterr().out
    for words in ("images/s of training, ours", "plain loop (fp32)", "ratio", "share of the",
                  "views/s of the face mesh; of DECA's head",
                  "folds doubled"):
        assert words in text
    ratios = re.search(r"^ratio +([0-9.]+) +([0-9.]+) +([0-9.]+)$", text, re.M)
    assert all(float(ratio) > 0 for ratio in ratios.groups())


def test_fewer_threads_than_none_are_refused():
    with pytest.raises(InputError, match="--threads -1"):
        bench.main(["--threads", "-1"])


def test_the_same_people_once_more_cost_nothing_and_others_what_they_cost(tmp_path, monkeypatch, capsys):
    """Each clip by its own subject's network, joined by name with what is stored."""
    run = make_run(tmp_path)
    found = glasses_on.predicted_in(run, tmp_path / "data", torch.device("cpu"))
    assert sorted(found) == sorted("/".join(clip) for fold in run.finished.values() for clip in fold.clips)
    given = ["fake", "--result-root", str(tmp_path / "result"), "--data-root", str(tmp_path / "data"),
             "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["glasses_on", *given])
    threads = torch.get_num_threads()
    for change, words in ((0, r" \+0\.000 \(\+0\.000 to \+0\.000\)\n"), (1, r"; [+-]0\.\d*[1-9]\d* \(")):
        for data_sub, fold in run.finished.items():
            labels = [(found["/".join(clip)] + change) % 3 for clip in fold.clips]
            epochs = len(fold.loss)
            change_json(run.folder / f"folds/{data_sub}.json", **said_strictly([labels] * epochs))
        glasses_on.main()
        assert re.search(words, capsys.readouterr().out)
    gone = next(iter(run.finished))
    (run.folder / f"models/{gone}.pt").unlink()
    with pytest.raises(InputError, match=f"no model of {gone}; run its script with --save-models"):
        glasses_on.main()
    torch.set_num_threads(threads)
