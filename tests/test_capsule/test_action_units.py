"""Action units: read from the owners' sheets, learnt from by the SVM, and never those of a held-out clip."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from capsule.data import with_action_units
from capsule.data.action_units import unit_matrix
from capsule.data.protocol import Clips
from capsule.fold import Pictures, Training, train_fold
from capsule.inputs.crops import FrameImages
from capsule.modules import network
from capsule.modules.svm import SVM
from capsule.modules.unit_scores import UnitScores
from capsule.trained import load_trained
from common.errors import InputError
from common.tensors import save_tensors

SHEETS = {"CASME2-coding-20140508": "Subject,Filename,Action Units,Emotion\n1,EP02_01f,4+L10,x\n",
          "SAMM_Micro_FACS_Codes_v2": "Subject,Filename,Action Units\n6,006_1_2,L12A or 25\n6,006_1_3,\n",
          "SMIC-HS-E_annotation": "Subject,Filename\n2,s2_ne_01\n"}
ROWS = [("casme", "sub01", "EP02_01f"), ("smic", "2", "s2_ne_01"), ("samm", "006", "006_1_2"),
        ("samm", "006", "006_1_3")]


def listed(root, rows):
    table = pd.DataFrame(rows, columns=["data", "subject", "clip"])
    table = table.assign(data_sub=table["data"] + "_" + table["subject"], label=0, onset_frame=1,
                         apex_frame=2, offset_frame=3)
    return Clips(table, "composite", ("negative", "positive", "surprise"), root)


@pytest.fixture
def root(tmp_path):
    for name, text in SHEETS.items():
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


def test_units_are_read_as_the_owners_write_them(root, capsys):
    clips = listed(root, ROWS)
    coded = with_action_units(clips)
    assert coded.table["action_units"].to_list() == ["4+L10", None, "L12A or 25", None]
    assert "action units not coded (2): smic/2/s2_ne_01, samm/006/006_1_3" in capsys.readouterr().out
    assert [one["count"] for one in coded.notes["said"]] == [2, 3] and "action_units" not in clips.table
    assert coded.identity != clips.identity
    matrix = unit_matrix(coded.table["action_units"])
    assert unit_matrix(["R1A+AU2", "9" * 5000 + " 4"]).tolist() == [[1, 1, 0], [0, 0, 1]]
    np.testing.assert_array_equal(matrix, [[1, 1, 0, 0], [np.nan] * 4, [0, 0, 1, 1], [np.nan] * 4])


@pytest.mark.parametrize(("clips_a_subject", "bare"), [(9, [1, 2]), (10, [])])
def test_folds_that_learn_from_no_unit_are_said(root, clips_a_subject, bare):
    """Ten training clips must show a unit, or the row is that of the SVM without units."""
    rows = [("casme", f"sub0{subject}", f"EP{n}") for subject in (1, 2) for n in range(clips_a_subject)]
    sheet = "".join(f"{subject[4:]},{clip},4,x\n" for _, subject, clip in rows)
    (root / "CASME2-coding-20140508.csv").write_text(f"Subject,Filename,Action Units,Emotion\n{sheet}")
    said = with_action_units(listed(root, rows)).notes.get("said")
    assert [one["clips"] for one in said] == [[f"casme_sub0{subject}" for subject in bare]] * bool(bare)


def test_databases_without_units_are_refused(root):
    with pytest.raises(InputError, match="no clip has action units coded"):
        with_action_units(listed(root, ROWS[1:2]))
    (root / "SAMM_Micro_FACS_Codes_v2.csv").unlink()
    with pytest.raises(InputError, match="no annotation sheet SAMM_Micro_FACS_Codes_v2"):
        with_action_units(listed(root, ROWS))


def problem(n=80, seed=0):
    """Pictures whose rows move by unit, units that give the class, 8 subjects; every fourth is not coded."""
    random = np.random.default_rng(seed)
    units = (random.random((n, 3)) < 0.5).astype(np.float32)
    rows = np.repeat(units, [9, 9, 10], 1)                          # (n, 28): a unit's own rows of pixels
    images = random.integers(96, 160, (n, 3, 28, 28)) + 30 * rows[:, None, :, None]
    labels = (units @ [1, 2, 0]).astype(np.int64) % 3
    units[::4] = np.nan
    return images.clip(0, 255).astype(np.uint8), labels, np.arange(n) // 10, units


def test_patches_are_motion_from_rest_with_strain_at_half_weight():
    images = np.empty((1, 3, 28, 28), np.uint8)
    images[0] = np.array([138, 148, 10])[:, None, None]
    for mirrored, u in ((False, 10), (True, -10)):
        parts = SVM(3).patches(images, mirrored)
        assert len(parts) == 9                              # from 0, 7, 14 each way
        for part in parts:
            np.testing.assert_allclose(part, np.repeat([[u, 20, 5]], 14 * 14, 1), rtol=1e-5)


def test_patches_are_blurred_by_a_pixel():
    images = np.full((1, 3, 28, 28), 128, np.uint8)
    images[:, 2], images[0, 0, 7, 7] = 0, 228               # 100 at one point of u, within the first patch
    for svm, highest in ((SVM(3), 100 / (2 * np.pi)), (SVM(3, blur=0), 100)):
        first = svm.patches(images)[0].reshape(3, 14, 14)
        assert first[0].sum() == pytest.approx(100, rel=1e-4) and not first[1:].any()
        assert first.max() == first[0, 7, 7] == pytest.approx(highest, rel=0.02)


def test_the_kernel_measures_distances_by_their_median():
    """Of two pictures, each its own mirror image: squared distances 0, D, D, 0, whose median is D / 2."""
    for v in (133, 148, 228):
        images = np.full((2, 3, 28, 28), 128, np.uint8)
        images[1, 1] = v
        expected = [[1, np.exp(-0.5 * 2)], [np.exp(-0.5 * 2), 1]]       # GAMMA .5
        np.testing.assert_allclose(SVM(3).known_kernel(images), expected, rtol=1e-4)


def test_rare_classes_weigh_more():
    images, labels = problem(40)[0], np.repeat([0, 1, 2], [20, 10, 10])
    weights = SVM(3).fit(images, labels).machine.machine.class_weight_
    np.testing.assert_allclose(weights, [40 / (3 * 20), 40 / (3 * 10), 40 / (3 * 10)])


def test_own_scores_are_those_of_a_regression_without_the_subject():
    images, labels, subjects, units = problem()
    kernel = SVM(3).fit(images, labels).alike(images)
    scores = UnitScores(kernel, subjects, units)
    coded = ~np.isnan(units[:, 0])
    centred = units - units[coded].mean(0)
    for subject in (0, 5):
        rest, own = coded & (subjects != subject), coded & (subjects == subject)
        ridge = kernel[np.ix_(rest, rest)] + np.eye(rest.sum())      # ridge 1
        expected = kernel[np.ix_(own, rest)] @ np.linalg.solve(ridge, centred[rest])
        np.testing.assert_allclose(scores.own[own] * scores.spread + scores.centre, expected, atol=1e-6)
    np.testing.assert_allclose(scores.of(kernel[~coded]), scores.own[~coded], atol=1e-6)


def test_rare_units_are_left_out():
    images, labels, subjects, units = problem()
    kernel = SVM(3).fit(images, labels).alike(images)
    rare = np.zeros((len(units), 1), np.float32)
    rare[np.flatnonzero(~np.isnan(units[:, 0]))[:9]] = 1
    assert (UnitScores(kernel, subjects, np.hstack([units, rare])).own
            == UnitScores(kernel, subjects, units).own).all()
    none = UnitScores(kernel, subjects, rare)
    assert none.own.shape == (80, 0) and not none.kernel(none.own).any()


def test_the_machine_uses_them_and_is_its_state(tmp_path):
    images, labels, subjects, units = problem()
    plain, taught = SVM(3).fit(images, labels), SVM(3).fit(images, labels, subjects, units)
    more, truth, *_ = problem(seed=1)
    scores = taught.scores(more)
    assert not np.allclose(scores, plain.scores(more)) and (scores.argmax(1) == truth).mean() > 0.6
    again = SVM(3)
    again.load_state_dict(taught.state_dict())
    assert (again.scores(more) == scores).all()
    save_tensors(tmp_path / "fold.pt", taught.state_dict())     # some clips are not coded, as all of SMIC
    read = load_trained(tmp_path / "fold.pt", torch.device("cpu"))
    assert (read.model.scores(more) == scores).all()
    with pytest.raises(ValueError, match="no subjects and action units"):
        again.load_state_dict({**taught.state_dict(), "units": torch.zeros(3, 1)})


def test_the_held_out_subjects_units_reach_no_prediction():
    images, labels, subjects, units = problem()
    texts = [None if np.isnan(row[0]) else "+".join(str(i + 1) for i in np.flatnonzero(row)) or "9"
             for row in units]
    table = pd.DataFrame({"data": "casme", "subject": [f"sub{s:02d}" for s in subjects], "label": labels,
                          "clip": [f"c{i}" for i in range(len(labels))]})
    table = table.assign(data_sub="casme_" + table["subject"], action_units=texts)
    clips, rows = listed("data", ROWS), np.arange(len(labels))
    found = []
    for change in ({}, {3: "1+2"}, {30: "1+2"}, None):      # 3 is of the held-out subject, 30 is not
        now = table.drop(columns="action_units") if change is None else table.assign(
            action_units=[change.get(i, text) for i, text in enumerate(texts)])
        now = replace(clips, table=now)
        stream = FrameImages(now, torch.from_numpy(images), rows, rows >= 0, ["x"] * len(rows), "motion", {})
        net = network("ActionUnitSVM", 3)
        pictures = Pictures(now, [stream], net, torch.device("cpu"))
        result, _ = train_fold(pictures, "casme_sub00", Training(net, 1, 32, 1e-3, 1.0, 9))
        found.append(result["lengths"])
    assert found[0] == found[1] != found[2] and found[3] != found[0]
