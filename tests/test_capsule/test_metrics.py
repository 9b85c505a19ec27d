"""Metrics: by hand, against scikit-learn, and on CapsuleNet's published predictions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from capsule.metrics import Meter, bootstrap_uf1, paired_uf1, uf1_of_rounds
from common.errors import InputError

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "reference" / "capsulenet_predictions.csv"
LABEL_PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


def meter(y_true, y_pred, classes=3):
    result = Meter(classes)
    result.add(y_true, y_pred)
    return result


def test_by_hand():
    result = meter([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2])
    recall, f1 = result.value()
    assert np.allclose(recall, [2 / 3, 1 / 2, 1])
    assert np.allclose(f1, [4 / 5, 2 / 4, 2 / 3])
    assert np.allclose(result.precision, [1, 1 / 2, 1 / 2])
    assert result.uar == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert result.uf1 == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.confusion().tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_classes_that_do_not_occur():
    result = meter([0, 0], [0, 1])    # class 1 only predicted, class 2 nowhere
    recall, f1 = result.value()
    assert recall.tolist() == [0.5, 0, 0]
    assert np.allclose(f1, [2 / 3, 0, 0])
    assert result.uf1 == pytest.approx(2 / 9)
    assert result.subject_uf1 == pytest.approx(1 / 3)
    assert result.subject_uar == pytest.approx(1 / 2)


def test_empty_meter():
    result = Meter(3)
    scores = (result.uf1, result.uar, result.accuracy, result.subject_uf1, result.subject_uar)
    assert scores == (0, 0, 0, 0, 0)


def test_batches_add_up_and_tensors_are_read():
    result = Meter(3)
    result.add(torch.tensor([0, 1]), torch.tensor([0, 2]))
    result.add(np.array([2]), [2])
    result.add(1, 1)
    assert result.confusion().tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    result.confusion()[:] = 9    # a copy
    assert result.confusion().sum() == 4


@pytest.mark.parametrize("y_true,y_pred", [([3], [0]), ([0], [3]), ([-1], [0]), ([0.5], [0]), ([0, 1], [0])])
def test_bad_labels_are_refused(y_true, y_pred):
    with pytest.raises(InputError):
        meter(y_true, y_pred)


@given(LABEL_PAIRS)
def test_agrees_with_scikit_learn(pairs):
    y_true, y_pred = zip(*pairs, strict=True)
    result, labels = meter(y_true, y_pred, 4), range(4)
    options = {"labels": labels, "average": None, "zero_division": 0}
    recall, f1 = result.value()
    assert np.allclose(recall, recall_score(y_true, y_pred, **options))
    assert np.allclose(result.precision, precision_score(y_true, y_pred, **options))
    assert np.allclose(f1, f1_score(y_true, y_pred, **options))
    assert result.accuracy == pytest.approx(accuracy_score(y_true, y_pred))
    assert np.array_equal(result.confusion(), confusion_matrix(y_true, y_pred, labels=labels))
    assert result.subject_uf1 == pytest.approx(f1_score(y_true, y_pred, average="macro", zero_division=0))


@given(LABEL_PAIRS, st.permutations(range(4)))
def test_renaming_the_classes_changes_no_mean(pairs, names):
    y_true, y_pred = zip(*pairs, strict=True)
    result = meter(y_true, y_pred, 4)
    renamed = meter([names[y] for y in y_true], [names[y] for y in y_pred], 4)
    assert renamed.uf1 == pytest.approx(result.uf1) and renamed.uar == pytest.approx(result.uar)


def test_bootstrap_by_hand_on_one_subject():
    y_true, y_pred = [0, 1, 1, 2], [0, 1, 2, 2]
    low, high = bootstrap_uf1(y_true, y_pred, ["a"] * 4, 3, n=20)
    assert low == high == pytest.approx(meter(y_true, y_pred).uf1)    # every draw is the same subject


def test_bootstrap_scores_the_same_classes_as_the_number_beside_it():
    # subject a: 0 0, b: 1 1, all right; nobody has class 2, so UF1 over three classes is 2/3 at most
    low, high = bootstrap_uf1([0, 0, 1, 1], [0, 0, 1, 1], list("aabb"), 3)
    assert (low, high) == pytest.approx((1 / 3, 2 / 3))    # a draw of one subject twice has one class
    assert meter([0, 0, 1, 1], [0, 0, 1, 1]).uf1 == pytest.approx(high)


def test_bootstrap_is_a_95_percent_interval():
    """Forty subjects, a clip of class 0 each, half of them right: hits are binomial, UF1 is half that F1."""
    low, high = bootstrap_uf1([0] * 40, [0, 1] * 20, range(40), 2, n=20_000)
    hits = binom.ppf([0.025, 0.975], 40, 0.5)                       # 14 and 26; of 90 % 15 and 25
    assert (low, high) == pytest.approx(hits / (hits + 40))


def test_uf1_of_each_round():
    rounds = np.array([[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2]])
    assert uf1_of_rounds(np.array([0, 0, 0, 1, 1, 2]), rounds, 3) == pytest.approx(
        [(4 / 5 + 2 / 4 + 2 / 3) / 3, 1])


def test_users_of_the_reference_programs_find_the_meter():
    from capsule import evaluations

    assert evaluations.Meter is Meter


def test_bootstrap_agrees_with_a_plain_loop():
    rng = np.random.default_rng(0)
    y_true, y_pred, subjects = rng.integers(0, 3, 90), rng.integers(0, 3, 90), rng.integers(0, 12, 90)
    draws = []
    for _ in range(1500):
        rows = np.concatenate([np.flatnonzero(subjects == s) for s in rng.integers(0, 12, 12)])
        draws.append(f1_score(y_true[rows], y_pred[rows], labels=range(3), average="macro",
                              zero_division=0))
    interval = bootstrap_uf1(y_true, y_pred, subjects, 3, n=4000, seed=1)
    assert interval == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.02)
    assert interval == bootstrap_uf1(y_true, y_pred, subjects, 3, n=4000, seed=1)


def test_bootstrap_refuses_what_does_not_fit():
    for arguments in (([0], [0], [], 3), ([], [], [], 3), ([5], [0], ["a"], 3), ([0, 0], [0], ["a", "b"], 3)):
        with pytest.raises(InputError):
            bootstrap_uf1(*arguments)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="CapsuleNet's published predictions are not at hand")
@pytest.mark.parametrize("data,uf1,uar", [(None, 0.6520, 0.6506), ("smic", 0.5820, 0.5877),
                                          ("casme2", 0.7068, 0.7018), ("samm", 0.6209, 0.5990)])
def test_published_predictions_give_the_published_row(data, uf1, uar):
    table = pd.read_csv(PUBLISHED)
    table = table if data is None else table[table["data"] == data]
    result = meter(table["y_true"], table["y_pred"])
    assert len(table) and (round(result.uf1, 4), round(result.uar, 4)) == (uf1, uar)


def test_the_paired_interval_draws_the_same_subjects_for_all():
    """Who is right about the same clips differs by nothing, whoever is drawn."""
    draws = np.random.default_rng(0)
    y_true, subjects = draws.integers(0, 3, 120), np.repeat(np.arange(20), 6)
    one, other = (np.where(draws.random(120) < 0.7, y_true, (y_true + 1) % 3) for _ in range(2))
    assert paired_uf1(y_true, one, [one, one], subjects, 3) == (0, 0, 0)
    gain, low, high = paired_uf1(y_true, one, [other, (y_true + 1) % 3], subjects, 3)
    expected = Meter(3, y_true, one).uf1 - (Meter(3, y_true, other).uf1 + 0) / 2
    assert gain == pytest.approx(expected) and low < gain < high
    wide = bootstrap_uf1(y_true, one, subjects, 3)
    assert high - low < 2 * (wide[1] - wide[0])
