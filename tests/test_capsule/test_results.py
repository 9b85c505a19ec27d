"""Folds read and checked, the two tables of SPEC section 8, the printed table; values computed by hand."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capsule.evaluations import Meter
from capsule.results import (
    LOG_COLUMNS,
    PREDICTION_COLUMNS,
    epoch_used,
    prediction_log,
    read_run,
    read_runs,
    result_log,
    select,
    sibling_key,
)
from capsule.tables import LEAK, random_uf1, render, report
from common.errors import InputError
from tests.fake_runs import change_json, clip_list, write_run

REFERENCE = Path(__file__).parents[2] / "../shared/reference/capsulenet_predictions.csv"


def two_subjects(root):
    """A run of two subjects whose predictions are known: A has 0 0 1, B has 1 2."""
    rows = [{"data": "synthetic", "subject": s, "clip": f"c{i}", "data_sub": f"synthetic_{s}", "label": label}
            for s, labels in (("A", (0, 0, 1)), ("B", (1, 2))) for i, label in enumerate(labels)]
    folder = write_run(root, "known", rows, epochs=2)
    change_json(folder / "folds/synthetic_A.json", strict=[[1, 1, 0], [0, 1, 1]],
                paper=[[0, 0, 1], [0, 0, 0]])
    change_json(folder / "folds/synthetic_B.json", strict=[[1, 2], [0, 2]], paper=[[0, 1], [2, 0]])
    return folder


def test_result_log_has_the_columns_and_values_computed_by_hand(tmp_path):
    two_subjects(tmp_path)
    log = result_log([read_run(tmp_path, "known")])
    assert list(log.columns) == LOG_COLUMNS
    assert log[["evaluation", "subject"]].values.tolist() == [
        [evaluation, subject] for evaluation in ("strict", "paper")
        for subject in ("synthetic_A", "synthetic_B", "ALL")]
    strict = log[log["evaluation"] == "strict"].set_index("subject")
    # A: truth 0 0 1, predicted 0 1 1 → F1 2/3, 2/3 over the two classes that occur; recalls 1/2, 1
    assert strict.loc["synthetic_A", ["clips", "accuracy", "uf1", "uar"]].tolist() == pytest.approx(
        [3, 2 / 3, 2 / 3, 3 / 4], abs=1e-6)
    # B: truth 1 2, predicted 0 2 → F1 0 (class 0), 0, 1; recalls of the true classes 0, 1
    assert strict.loc["synthetic_B", ["accuracy", "uf1", "uar"]].tolist() == pytest.approx(
        [1 / 2, 1 / 3, 1 / 2], abs=1e-6)
    # pooled: F1 of 0: 2/(2+1+1) = 1/2; of 1: 2/(2+1+1) = 1/2; of 2: 1. recalls 1/2 1/2 1
    assert strict.loc["ALL", ["clips", "accuracy", "uf1", "uar"]].tolist() == pytest.approx(
        [5, 3 / 5, 2 / 3, 2 / 3], abs=1e-6)


def test_predictions_name_the_epoch_that_was_used(tmp_path):
    two_subjects(tmp_path)
    table = prediction_log([read_run(tmp_path, "known")])
    assert list(table.columns) == PREDICTION_COLUMNS
    strict, paper = (table[table["evaluation"] == name] for name in ("strict", "paper"))
    assert strict["y_pred"].tolist() == [0, 1, 1, 0, 2]
    assert set(strict["epoch"]) == {2}
    assert paper["y_pred"].tolist() == [0, 0, 1, 2, 0]     # A: epoch 1 is best; B: equal, so the later one
    assert paper["epoch"].tolist() == [1, 1, 1, 2, 2]


def test_best_test_epoch_takes_the_mean_over_all_classes(tmp_path):
    two_subjects(tmp_path)
    fold = read_run(tmp_path, "known").finished["synthetic_A"]
    fold.predictions["paper"][:] = [[2, 2, 1], [0, 2, 0]]
    # over all three classes: epoch 1 has (0 + 1 + 0)/3, epoch 2 (1/2 + 0 + 0)/3
    assert epoch_used(fold, "paper", 3) == 1
    assert epoch_used(fold, "strict", 3) == 2


def test_published_scores_come_from_the_public_predictions(tmp_path):
    if not REFERENCE.is_file():
        pytest.skip("needs ../shared/reference")
    table = pd.read_csv(REFERENCE, dtype=str).replace({"casme2": "casme"})
    rows = [{"data": row.data, "subject": row.subject, "clip": row.clip, "label": int(row.y_true),
             "data_sub": f"{row.data}_{row.subject}"} for row in table.itertuples()]
    folder = write_run(tmp_path, "capsulenet", rows, dataset="composite", synthetic=False, epochs=1,
                       config={"protocol": "megc2019"})
    for data_sub, own in table.groupby(table["data"] + "_" + table["subject"]):
        change_json(folder / f"folds/{data_sub}.json", strict=[own["y_pred"].astype(int).tolist()])
    run = read_run(tmp_path, "capsulenet")
    log = result_log([run])
    totals = log[log["evaluation"] == "strict"].set_index("subject").loc[["ALL", "smic", "casme", "samm"]]
    pairs = [f"{row.uf1:.4f}/{row.uar:.4f}" for row in totals.itertuples()]
    assert pairs == ["0.6520/0.6506", "0.5820/0.5877", "0.7068/0.7018", "0.6209/0.5990"]
    assert totals["clips"].tolist() == [435, 157, 145, 133]
    text = render(report([run]))
    assert "published: RCN" in text
    assert "0.6520 [" in text


@pytest.mark.parametrize(("change", "words"), [
    ({"y_true": [0, 1]}, "y_true is not 5 labels"),
    ({"y_true": [0, 1, 2, 0, 3]}, "y_true is not 5 labels from 0 to 2"),
    ({"y_true": [2, 1, 0, 2, 1]}, "labels are not the experiment's"),
    ({"strict": [[0, 0, 0, 0, 0]]}, "strict is not 3 epochs"),
    ({"paper": [[0, 0, 0, 0, -1]] * 3}, "paper is not 3 epochs"),
    ({"paper": [[0, 0, 0, 0, True]] * 3}, "paper is not 3 epochs"),
    ({"paper": None}, "paper is not 3 epochs"),
    ({"loss": [float("nan")] * 3}, "loss is not a list of numbers"),
    ({"loss": [10**400] * 3}, "loss is not a list of numbers"),
    ({"loss": []}, "loss is not a list of numbers"),
    ({"lengths": [[0.1, 0.2]] * 5}, "lengths is not 5 lists of 3 numbers"),
    ({"clips": []}, "its clips are not this subject's"),
    ({"clips": [{"data": "synthetic", "subject": "s09", "clip": "c0"}] * 5}, "its clips are not"),
    ({"clips": [["synthetic", "s00", "c0"]]}, "has no list of clips"),
    ({"clips": [{"data": [], "subject": {}, "clip": 1}]}, "clips without a name"),
    ({"config": {"seed": 10}}, "another configuration"),
    ({"data_sub": "synthetic_s01"}, "another experiment or subject"),
])
def test_a_fold_that_cannot_be_right_is_named_and_counted_as_missing(tmp_path, change, words):
    folder = write_run(tmp_path)
    broken = folder / "folds/synthetic_s00.json"
    change_json(broken, **change)
    run = read_run(tmp_path, "fake")
    assert run.missing == ("synthetic_s00",)
    assert len(run.notes) == 1
    assert str(broken) in run.notes[0] and words in run.notes[0]
    assert "synthetic_s00" not in set(result_log([run])["subject"])
    assert "3/4 (1 missing)" in render(report([run]))


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe\x00", b"[]", b"null", b"12",
                                     b"\x80\x04c__builtin__\neval\n."])
def test_a_fold_file_that_is_no_fold_is_named(tmp_path, content):
    folder = write_run(tmp_path)
    (folder / "folds/synthetic_s02.json").write_bytes(content)
    run = read_run(tmp_path, "fake")
    assert run.missing == ("synthetic_s02",)
    assert "synthetic_s02.json" in run.notes[0]


JSON = st.recursive(st.none() | st.booleans() | st.integers(-3, 5) | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["data", "clip", "label", "seed"]), inner, max_size=3),
                    max_leaves=6)
KEYS = ["experiment", "data_sub", "config", "clips", "y_true", "loss", "paper", "strict", "lengths"]
FACTS = ["experiment", "dataset", "synthetic", "quick", "classes", "class_names", "seed", "config", "clips",
         "folds"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(KEYS), value=JSON)
def test_any_value_in_a_fold_is_either_used_or_named(tmp_path, key, value):
    folder = write_run(tmp_path, rows=clip_list(subjects=2))
    change_json(folder / "folds/synthetic_s01.json", **{key: value})
    run = read_run(tmp_path, "fake")
    assert len(run.notes) == len(run.missing) <= 1
    assert len(result_log([run])) > 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(FACTS), value=JSON)
def test_any_value_in_an_experiment_file_is_either_used_or_named(tmp_path, key, value):
    folder = write_run(tmp_path, rows=clip_list(subjects=2))
    change_json(folder / "experiment.json", **{key: value})
    try:
        run = read_run(tmp_path, "fake")
    except InputError as error:
        assert "experiment.json" in str(error)
    else:
        assert render(report([run])).count(" Full ") >= 2      # the two baselines at least


@pytest.mark.parametrize("name", ["../outside", "a/b", "", "..", "two\nlines", "\x1b[31mred"])
def test_names_that_leave_the_folder_or_the_line_are_refused(tmp_path, name):
    rows = clip_list(subjects=2)
    for row in rows[5:]:
        row["data_sub"] = name
    folder = write_run(tmp_path, rows=clip_list(subjects=2))
    change_json(folder / "experiment.json", clips=rows, folds=["synthetic_s00", name])
    with pytest.raises(InputError, match="not a plain name"):
        read_run(tmp_path, "fake")


def test_a_link_out_of_the_result_folder_is_refused(tmp_path):
    outside = write_run(tmp_path / "elsewhere")
    root = tmp_path / "result"
    folder = write_run(root)
    fold = folder / "folds/synthetic_s00.json"
    fold.unlink()
    fold.symlink_to(outside / "folds/synthetic_s00.json")
    (root / "linked").symlink_to(outside)
    runs, broken = read_runs(root)
    assert [run.missing for run in runs] == [("synthetic_s00",)]
    assert "leads out of" in runs[0].notes[0]
    assert "leads out of" in broken["linked"]


def test_a_broken_experiment_does_not_hide_the_others(tmp_path):
    write_run(tmp_path, "good")
    write_run(tmp_path, "bad")
    (tmp_path / "bad/experiment.json").write_text("{")
    runs, broken = read_runs(tmp_path)
    assert [run.name for run in runs] == ["good"]
    text = render(report(runs, broken.values()))
    assert str(tmp_path / "bad/experiment.json") in text
    with pytest.raises(InputError, match="bad"):
        select(runs, broken, ["bad"])
    with pytest.raises(InputError, match="there are good"):
        select(runs, broken, ["../good"])


def test_nothing_there_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="train_me_loso"):
        read_runs(tmp_path / "missing")


def test_incomplete_runs_say_which_folds_are_missing_and_why(tmp_path):
    folder = write_run(tmp_path, missing=("synthetic_s01", "synthetic_s03"))
    failure = {"data_sub": "synthetic_s01", "fold_seed": 7, "reason": "loss is nan\nin epoch 2"}
    (folder / "failed").mkdir()
    (folder / "failed/synthetic_s01.json").write_text(json.dumps(failure))
    (folder / "folds/stranger.json").write_text("{}")
    text = render(report([read_run(tmp_path, "fake")]))
    assert "2/4 (2 missing)" in text
    assert "2 of 4 folds missing: synthetic_s01, synthetic_s03" in text
    assert "fold synthetic_s01 failed: loss is nan in epoch 2 (fold seed 7)" in text
    assert "stranger.json: not a fold of this experiment" in text


def test_a_run_without_any_finished_fold_is_still_shown(tmp_path):
    write_run(tmp_path, missing=tuple(f"synthetic_s{i:02d}" for i in range(4)))
    run = read_run(tmp_path, "fake")
    assert result_log([run]).empty and prediction_log([run]).empty
    assert "0/4 (4 missing)" in render(report([run]))


def test_each_database_of_a_composite_has_its_own_total(tmp_path):
    write_run(tmp_path, rows=clip_list(("casme", "smic", "samm"), 2), dataset="composite", synthetic=False)
    run = read_run(tmp_path, "fake")
    log = result_log([run])
    totals = log[(log["evaluation"] == "strict") & ~log["subject"].str.contains("_")]
    assert totals[["subject", "clips"]].values.tolist() == [["ALL", 30], ["casme", 10], ["smic", 10],
                                                            ["samm", 10]]
    lines = [line for line in render(report([run])).splitlines() if line.startswith("fake [quick]")]
    names = ["Full", "CASME II", "SMIC", "SAMM"]
    assert [name for line in lines for name in names if f" {name} " in line] == names


def test_strict_stands_before_paper_and_paper_has_its_plain_name(tmp_path):
    write_run(tmp_path)
    text = render(report([read_run(tmp_path, "fake")]))
    assert LEAK == "best test epoch: leaks the test fold"
    assert text.index("strict (last epoch)") < text.index(LEAK)


def test_every_row_about_synthetic_or_quick_runs_says_so(tmp_path):
    write_run(tmp_path)
    write_run(tmp_path, "other", seed=10)
    runs, _ = read_runs(tmp_path)
    for table in report(runs):
        assert "SYNTHETIC" in table.title
        assert all("SYNTHETIC" in row[0] for row in table.rows)
        assert all("quick" in row[0] for row in table.rows if row[0].startswith(("fake", "other")))
    write_run(tmp_path, "renamed", dataset="composite", rows=clip_list(("casme", "smic")))
    assert set(result_log([read_run(tmp_path, "renamed")])["dataset"]) == {"composite SYNTHETIC"}


def test_published_rows_only_beside_their_own_clip_list(tmp_path):
    rows = clip_list(("casme", "smic", "samm"), 2)
    real = {"dataset": "composite", "synthetic": False, "rows": rows}
    write_run(tmp_path, "own_list", config={"protocol": "dsnca"}, **real)
    write_run(tmp_path, "glasses", config={"protocol": "megc2019", "subset": "glasses"}, **real)
    write_run(tmp_path, "invented", config={"protocol": "megc2019"}, dataset="composite", rows=rows)
    runs, _ = read_runs(tmp_path)
    text = render(report(runs))
    assert "published: " not in text
    assert "own_list: no published row is about this clip list" in text
    write_run(tmp_path, "megc", config={"protocol": "megc2019"}, **real)
    assert render(report(read_runs(tmp_path)[0])).count("published: ") == 9


def test_seeds_of_one_configuration_give_mean_and_deviation(tmp_path):
    for seed in (9, 10, 11):
        write_run(tmp_path, f"fake-seed{seed}", seed=seed)
    write_run(tmp_path, "partial-seed12", seed=12, missing=("synthetic_s00",))
    write_run(tmp_path, "other-seed13", seed=13, config={"learning_rate": 0.1})
    runs, _ = read_runs(tmp_path)
    log = result_log(runs[:3])
    uf1 = log[(log["evaluation"] == "strict") & (log["subject"] == "ALL")]["uf1"]
    assert len(uf1) == 3
    rows = {row[0]: row for row in report(runs)[0].rows}
    mean = rows["fake: mean of 3 seeds [SYNTHETIC, quick]"]
    assert mean[1] == "9, 10, 11"
    assert mean[4] == f"{uf1.mean():.4f} ± {uf1.std(ddof=1):.4f}"
    assert "[" in rows["other-seed13 [SYNTHETIC, quick]"][4]         # one seed: an interval
    assert sibling_key(runs[0]) == sibling_key(runs[1])
    assert sibling_key(runs[0]) != sibling_key(next(run for run in runs if run.name == "other-seed13"))


def test_random_baseline_equals_all_guesses_enumerated():
    true = np.array([0, 0, 1, 2, 2])
    scores = []
    for guess in product(range(3), repeat=5):
        meter = Meter(3)
        meter.add(true, guess)
        scores.append(meter.uf1)
    assert random_uf1(true, 3) == pytest.approx(np.mean(scores), abs=1e-12)
    assert random_uf1(np.array([0, 0]), 2) == pytest.approx((0.5 * 2 / 3 + 0.25) / 2, abs=1e-12)


def test_majority_baseline_by_hand(tmp_path):
    rows = [{"data": "synthetic", "subject": s, "clip": f"c{i}", "data_sub": f"synthetic_{s}", "label": label}
            for s in "AB" for i, label in enumerate((1, 1, 1, 0, 2))]
    write_run(tmp_path, rows=rows)
    row = next(row for row in report([read_run(tmp_path, "fake")])[0].rows if row[0].startswith("majority"))
    assert row[0] == "majority class (positive) [SYNTHETIC]"
    assert row[4:7] == ("0.2500", "0.3333", "0.6000")     # F1 of positive 2·6/(2·6 + 4) = 3/4, a third of it


def test_markdown_and_latex_hold_the_same_cells(tmp_path):
    write_run(tmp_path, "under_score-50%")
    tables = report([read_run(tmp_path, "under_score-50%")])
    text, markdown, latex = (render(tables, form) for form in ("text", "markdown", "latex"))
    cell = tables[0].rows[0][4]
    assert cell in text and cell in markdown and cell in latex
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "under\\_score-50\\% [SYNTHETIC, quick] &" in latex
    assert latex.count("\\begin{tabular}{llllllllll}") == latex.count("\\end{tabular}") == 1
