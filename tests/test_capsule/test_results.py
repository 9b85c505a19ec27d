"""Folds read and checked, the two tables of SPEC section 8, the printed table; values computed by hand."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsule.metrics import Meter
from capsule.results import (
    CLASS_COLUMNS,
    LOG_COLUMNS,
    PREDICTION_COLUMNS,
    class_log,
    epoch_used,
    prediction_log,
    read_fold,
    read_run,
    read_runs,
    result_log,
    select,
)
from capsule.tables import LEAK, random_uf1, render, report
from common.errors import InputError
from tests.fake_runs import change_json, clip_list, said_strictly, write_run

REFERENCE = Path(__file__).parents[2] / "../shared/reference/capsulenet_predictions.csv"


def two_subjects(root):
    """A run of two subjects whose predictions are known: A has 0 0 1, B has 1 2."""
    rows = [{"data": "synthetic", "subject": s, "clip": f"c{i}", "data_sub": f"synthetic_{s}", "label": label}
            for s, labels in (("A", (0, 0, 1)), ("B", (1, 2))) for i, label in enumerate(labels)]
    folder = write_run(root, "known", rows, epochs=2)
    change_json(folder / "folds/synthetic_A.json", paper=[[0, 0, 1], [0, 0, 0]],
                **said_strictly([[1, 1, 0], [0, 1, 1]]))
    change_json(folder / "folds/synthetic_B.json", paper=[[0, 1], [2, 0]],
                **said_strictly([[1, 2], [0, 2]]))
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


def test_class_log_has_the_columns_and_values_computed_by_hand(tmp_path):
    two_subjects(tmp_path)
    log = class_log([read_run(tmp_path, "known")])
    assert list(log.columns) == CLASS_COLUMNS
    # strict: truth 0 0 1 1 2, predicted 0 1 1 0 2
    strict = log[log["evaluation"] == "strict"].drop(columns=["experiment", "dataset", "evaluation"])
    assert strict.values.tolist() == [["negative", 2, 2, .5, .5, .5], ["positive", 2, 2, .5, .5, .5],
                                      ["surprise", 1, 1, 1, 1, 1]]


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
        change_json(folder / f"folds/{data_sub}.json", **said_strictly([own["y_pred"].astype(int).tolist()]))
    run = read_run(tmp_path, "capsulenet")
    log = result_log([run])
    totals = log[log["evaluation"] == "strict"].set_index("subject").loc[["ALL", "smic", "casme", "samm"]]
    pairs = [f"{row.uf1:.4f}/{row.uar:.4f}" for row in totals.itertuples()]
    assert pairs == ["0.6520/0.6506", "0.5820/0.5877", "0.7068/0.7018", "0.6209/0.5990"]
    assert totals["clips"].tolist() == [435, 157, 145, 133]
    text = render(report([run]))
    assert "published: RCN" in text
    assert "0.6520 [" in text and "0.5820 / 0.5877" in text


@pytest.mark.parametrize(("change", "words"), [
    ({"y_true": [0, 1]}, "y_true is not 5 labels"),
    ({"y_true": [0, 1, 2, 0, 3]}, "y_true is not 5 labels from 0 to 2"),
    ({"y_true": [2, 1, 0, 2, 1]}, "labels are not the experiment's"),
    ({"strict": [[0, 0, 0, 0, 0]]}, "strict is not 3 × 5 labels"),
    ({"paper": [[0, 0, 0, 0, -1]] * 3}, "paper is not 3 × 5 labels from 0 to 2"),
    ({"paper": [[0, 0, 0, 0, 0.5]] * 3}, "paper is not 3 × 5"),
    ({"paper": None}, "paper is not 3 × 5"),
    ({"loss": [float("nan")] * 3}, "NaN is no JSON"),
    ({"loss": [10**400] * 3}, "loss is not 3 finite numbers"),
    ({"loss": []}, "strict is not 0 × 5 labels"),
    ({"lengths": [[0.1, 0.2]] * 5}, "lengths is not 5 × 3 finite numbers"),
    ({"lengths": [[0.2, 0.1, 0.1]] * 5}, "its last strict predictions are not the largest of its lengths"),
    ({"strict": [[0] * 5, [1] * 5, [2] * 5]}, "its last strict predictions are not the largest"),
    ({"clips": []}, "its clips are not this subject's"),
    ({"clips": [{"data": "synthetic", "subject": "s09", "clip": "c0"}] * 5}, "its clips are not"),
    ({"clips": [["synthetic", "s00", "c0"]]}, "not a fold of fake"),
    ({"clips": [{"data": [], "subject": {}, "clip": 1}]}, "not a fold of fake"),
    ({"clips": [{"data": "synthetic"}]}, "no 'subject'"),
    ({"config": {"seed": 10}}, "another configuration"),
    ({"data_sub": "synthetic_s01"}, "of another subject"),
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
                                     b'{"config":' + b"[" * 900 + b"]" * 900 + b"}", b"{}",
                                     b"\x80\x04c__builtin__\neval\n."])
def test_a_fold_file_that_is_no_fold_is_named(tmp_path, content):
    folder = write_run(tmp_path)
    (folder / "folds/synthetic_s02.json").write_bytes(content)
    run = read_run(tmp_path, "fake")
    assert run.missing == ("synthetic_s02",)
    assert "synthetic_s02.json" in run.notes[0]


def test_training_reads_a_fold_through_the_same_gate(tmp_path):
    folder = write_run(tmp_path)
    run, path = read_run(tmp_path, "fake"), folder / "folds/synthetic_s01.json"
    fold = read_fold(path, "synthetic_s01", run.facts, run.clips)
    assert fold.lengths.shape == (5, 3) and fold.predictions["strict"].shape == (3, 5)
    with pytest.raises(InputError, match=r"synthetic_s01\.json"):
        read_fold(path, "synthetic_s01", {**run.facts, "config": {"seed": 1}}, run.clips)
    value = json.loads(path.read_text())
    del value["train_uf1"]    # as older runs wrote it
    path.write_text(json.dumps(value))
    assert read_fold(path, "synthetic_s01", run.facts, run.clips).clips == fold.clips


def test_leftovers_of_killed_writers_never_appear(tmp_path):
    folder = write_run(tmp_path)
    (folder / "folds/.synthetic_s00.json.x1.part.json").write_text("{")
    (folder / ".experiment.json.x1.part.json").write_text("{")
    (tmp_path / ".gone").mkdir()
    (tmp_path / ".gone/experiment.json").write_text("{")
    runs, broken = read_runs(tmp_path)
    assert not broken and not runs[0].notes and not runs[0].missing


JSON = st.recursive(st.none() | st.booleans() | st.integers(-3, 5) | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["data", "clip", "label", "seed"]), inner, max_size=3),
                    max_leaves=6)
KEYS = ["experiment", "data_sub", "config", "clips", "y_true", "loss", "paper", "strict", "lengths"]
FACTS = ["experiment", "dataset", "synthetic", "quick", "classes", "class_names", "seed", "config", "clips",
         "folds", "notes", "weights"]


@settings(max_examples=60)
@given(key=st.sampled_from(KEYS), value=JSON)
def test_any_value_in_a_fold_is_either_used_or_named(tmp_path, key, value):
    folder = write_run(tmp_path, rows=clip_list(subjects=2))
    change_json(folder / "folds/synthetic_s01.json", **{key: value})
    run = read_run(tmp_path, "fake")
    assert len(run.notes) == len(run.missing) <= 1
    assert len(result_log([run])) > 0


@settings(max_examples=60)
@given(key=st.sampled_from(FACTS), value=JSON)
def test_any_value_in_an_experiment_file_is_either_used_or_named(tmp_path, key, value):
    folder = write_run(tmp_path, rows=clip_list(subjects=2))
    change_json(folder / "experiment.json", **{key: value})
    try:
        run = read_run(tmp_path, "fake")
    except InputError as error:
        assert "experiment.json" in str(error)
    else:
        assert render(report([run])).count("majority class") == 1
        assert len(class_log([run])) in (0, 6)      # 0: the folds are of another configuration


@pytest.mark.parametrize("name", ["../outside", "a/b", "", "..", "two\nlines", "\x1b[31mred", ".hidden",
                                  "\udcff", 7])
def test_names_that_leave_the_folder_or_the_line_are_refused(tmp_path, name):
    rows = clip_list(subjects=2)
    for row in rows[5:]:
        row["data_sub"] = name
    folder = write_run(tmp_path, rows=clip_list(subjects=2))
    change_json(folder / "experiment.json", clips=rows, folds=["synthetic_s00", name])
    with pytest.raises(InputError, match="not a plain name"):
        read_run(tmp_path, "fake")


def test_a_thousand_classes_are_refused(tmp_path):
    folder = write_run(tmp_path, rows=clip_list(subjects=2))
    change_json(folder / "experiment.json", classes=1000, class_names=[f"c{i}" for i in range(1000)])
    with pytest.raises(InputError, match="more than 20 classes"):       # the tables would fill the memory
        read_run(tmp_path, "fake")


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
    write_run(tmp_path, "one")
    with pytest.raises(InputError, match="this is one experiment; give the folder above it"):
        read_runs(tmp_path / "one")


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


def test_folds_of_two_programs_or_devices_are_told(tmp_path):
    folder = write_run(tmp_path)
    for number, path in enumerate((folder / "folds").iterdir()):
        change_json(path, environment={"git_commit": f"c{number}", "threads": min(number, 1), "torch": "2"})
    text = render(report([read_run(tmp_path, "fake")]))
    assert "fake: its folds were made with differing git_commit, threads (" in text and "4/4" in text


def test_folds_without_an_experiment_file_are_told(tmp_path):
    write_run(tmp_path, "whole")
    (write_run(tmp_path, "lost") / "experiment.json").unlink()
    (tmp_path / "smic_apex").mkdir()
    runs, broken = read_runs(tmp_path)
    assert [run.name for run in runs] == ["whole"] and list(broken) == ["lost"]
    assert "lost: has folds and no experiment.json" in render(report(runs, broken.values()))
    with pytest.raises(InputError, match=r"no experiment\.json"):
        select(runs, broken, ["lost"])


def test_seeds_of_two_programs_or_devices_are_told(tmp_path):
    for seed, device in ((9, "CPU"), (10, "GPU")):
        folder = write_run(tmp_path, f"fake-seed{seed}", seed=seed)
        for path in (folder / "folds").iterdir():
            change_json(path, environment={"device": device, "torch": "2"})
    runs = read_runs(tmp_path)[0]
    text = render(report(runs))
    assert "mean of 2 seeds" in text and "fake: its seeds were made with differing device (" in text
    assert "differing" not in render(report(runs[:1]))


def test_a_run_without_any_finished_fold_is_still_shown(tmp_path):
    write_run(tmp_path, missing=tuple(f"synthetic_s{i:02d}" for i in range(4)))
    run = read_run(tmp_path, "fake")
    assert result_log([run]).empty and prediction_log([run]).empty and class_log([run]).empty
    assert "0/4 (4 missing)" in render(report([run]))


def scores(runs):
    """The cells of the first table of scores, by result and evaluation."""
    return report(runs)[0].cells.set_index(["result", "evaluation"])


def test_each_database_of_a_composite_has_its_own_total(tmp_path):
    write_run(tmp_path, rows=clip_list(("casme", "smic", "samm"), 2), dataset="composite", synthetic=False)
    run = read_run(tmp_path, "fake")
    log = result_log([run])
    totals = log[(log["evaluation"] == "strict") & ~log["subject"].str.contains("_")].set_index("subject")
    assert totals["clips"].to_dict() == {"ALL": 30, "casme": 10, "smic": 10, "samm": 10}
    row = scores([run]).loc["fake [quick]", "strict (last epoch)"]
    assert row["UF1"].startswith(f"{totals.loc['ALL', 'uf1']:.4f} [")
    for column, data in (("CASME II", "casme"), ("SMIC", "smic"), ("SAMM", "samm")):
        assert row[f"{column}\nUF1 / UAR"] == f"{totals.loc[data, 'uf1']:.4f} / {totals.loc[data, 'uar']:.4f}"


def test_strict_stands_before_the_best_test_epoch_which_says_that_it_leaks(tmp_path):
    write_run(tmp_path)
    text = render(report([read_run(tmp_path, "fake")]))
    assert "leaks the test fold" in LEAK and LEAK in text
    assert text.index("strict (last epoch)") < text.index("best test epoch*")


def test_classes_have_precision_recall_f1_and_counts(tmp_path):
    two_subjects(tmp_path)
    cells = report([read_run(tmp_path, "known")])[1].cells
    assert list(cells.columns) == ["result", "negative\n2 clips", "positive\n2 clips", "surprise\n1 clips"]
    assert cells.iloc[0].tolist() == ["known [SYNTHETIC, quick]", "0.500 / 0.500 / 0.500 (2)",
                                      "0.500 / 0.500 / 0.500 (2)", "1.000 / 1.000 / 1.000 (1)"]


def test_a_protocol_that_is_a_file_stays_on_its_line(tmp_path):
    write_run(tmp_path, synthetic=False, config={"protocol": "some\nwhere/" + "x" * 90 + ".csv"})
    title = report([read_run(tmp_path, "fake")])[0].title
    assert "(some where/xxx" in title and "\n" not in title and len(title) < 170


def test_what_a_reader_should_know_is_counted_and_listed_once(tmp_path):
    notes = [{"what": "faces not found", "count": 3, "clips": ["a", "b", "c"]},
             {"what": "rows\ncorrected", "count": 1, "clips": ["d"]}]
    for seed in (9, 10):
        write_run(tmp_path, f"fake-seed{seed}", seed=seed, notes=notes,
                  weights={"asked": "ImageNet", "found": "none"})
    runs, _ = read_runs(tmp_path)
    assert scores(runs).loc["fake-seed9 [SYNTHETIC, quick]", "notes"].tolist() == ["4", "4"]
    lines = render(report(runs)).splitlines()
    assert lines.count("faces not found: 3 (fake)") == lines.count("rows corrected: 1 (fake)") == 1
    assert "weights: ImageNet asked for, none found (fake)" in lines
    write_run(tmp_path / "own", "fake", weights={"asked": "x.pt 01", "found": "x.pt 01, 9 of 9 tensors"})
    assert "asked for" not in render(report(read_runs(tmp_path / "own")[0]))


def test_every_row_about_synthetic_or_quick_runs_says_so(tmp_path):
    write_run(tmp_path)
    write_run(tmp_path, "other", seed=10)
    scored, classes = report(read_runs(tmp_path)[0])
    assert "SYNTHETIC" in scored.title
    for name in (*scored.cells["result"], *classes.cells["result"]):
        assert "SYNTHETIC" in name
        assert "quick" in name or not name.startswith(("fake", "other"))
    write_run(tmp_path, "renamed", dataset="composite", rows=clip_list(("casme", "smic")))
    assert set(result_log([read_run(tmp_path, "renamed")])["dataset"]) == {"composite SYNTHETIC"}


def test_published_rows_only_beside_their_own_clip_list(tmp_path):
    rows = clip_list(("casme", "smic", "samm"), 2)
    real = {"dataset": "composite", "synthetic": False, "rows": rows}
    write_run(tmp_path, "own_list", config={"protocol": "dsnca"}, **real)
    write_run(tmp_path, "glasses", config={"protocol": "megc2019", "subset": "glasses"}, **real)
    write_run(tmp_path, "invented", config={"protocol": "megc2019"}, dataset="composite", rows=rows)
    write_run(tmp_path, "part", config={"protocol": "megc2019"}, **real)
    text = render(report(read_runs(tmp_path)[0]))
    assert "published: " not in text
    said = "\nno published row is about this clip list; train with --protocol megc2019 on all 435 to"
    assert text.count(said) == text.count("no published row") == 1
    write_run(tmp_path, "megc", config={"protocol": "megc2019"},
              **{**real, "rows": clip_list(("casme", "smic", "samm"), 29)})
    tables = [table for table in report(read_runs(tmp_path)[0]) if "published: RCN" in str(table.cells)]
    cells = tables[0].cells.set_index("result")
    assert len(tables) == 1 and sum(name.startswith("published: ") for name in cells.index) == 14
    assert cells.loc["published: HTNet (paper)", ["evaluation", "UF1", "SMIC\nUF1 / UAR"]].tolist() == [
        "best test epoch", ".8603", ".8049 / .7905"]
    assert cells.loc["published: STSTNet (meb's rerun)", ["evaluation", "UF1", "UAR"]].tolist() == [
        "last epoch", ".713", "-"]


def test_seeds_of_one_configuration_give_mean_and_deviation(tmp_path):
    for seed in (9, 10, 11):
        write_run(tmp_path, f"fake-seed{seed}", seed=seed)
    write_run(tmp_path, "partial-seed12", seed=12, missing=("synthetic_s00",))
    write_run(tmp_path, "other-seed13", seed=13, config={"learning_rate": 0.1})
    runs, _ = read_runs(tmp_path)
    log = result_log(runs)
    uf1 = log[(log["evaluation"] == "strict") & (log["subject"] == "ALL")
              & log["experiment"].str.startswith("fake")]["uf1"]
    assert len(uf1) == 3
    cells = scores(runs)["UF1"]
    mean = cells["fake: mean of 3 seeds [SYNTHETIC, quick]", "strict (last epoch)"]
    assert mean == f"{uf1.mean():.4f} ± {uf1.std(ddof=1):.4f}"
    assert "[" in cells["other-seed13 [SYNTHETIC, quick]", "strict (last epoch)"]    # one seed: an interval
    family = {run.name: run.family for run in runs}
    assert family["fake-seed9"] == family["fake-seed10"] == family["partial-seed12"] != family["other-seed13"]


@pytest.mark.parametrize("chances", [(1 / 3, 1 / 3, 1 / 3), (0.5, 0.4, 0.1)])
def test_random_baseline_equals_all_guesses_enumerated(chances):
    true, expected = np.array([0, 0, 1, 2, 2]), 0.0
    for guess in product(range(3), repeat=5):
        expected += np.prod([chances[label] for label in guess]) * Meter(3, true, guess).uf1
    assert random_uf1(true, chances) == pytest.approx(expected, abs=1e-12)
    assert random_uf1(np.array([0, 0]), (0.5, 0.5)) == pytest.approx((0.5 * 2 / 3 + 0.25) / 2, abs=1e-12)


def test_no_guess_beats_the_one_in_the_classes_shares(tmp_path):
    rows = [{"data": "synthetic", "subject": s, "clip": f"c{i}", "data_sub": f"synthetic_{s}", "label": label}
            for s in "AB" for i, label in enumerate([0] * 60 + [1] * 30 + [2] * 10)]
    write_run(tmp_path, rows=rows)
    cells = report([read_run(tmp_path, "fake")])[0].cells.set_index("result")
    equal, shares = (cells.loc[f"random guess{how} (expected) [SYNTHETIC]", ["UF1", "UAR", "accuracy"]]
                     .astype(float) for how in ("", ", in the classes' shares"))
    assert equal.tolist()[1:] == [0.3333, 0.3333] and shares.tolist()[1:] == [0.3333, 0.46]
    assert 0.28 < equal["UF1"] < 0.32 < shares["UF1"] < 0.3334


def test_majority_baseline_by_hand(tmp_path):
    rows = [{"data": "synthetic", "subject": s, "clip": f"c{i}", "data_sub": f"synthetic_{s}", "label": label}
            for s in "AB" for i, label in enumerate((1, 1, 1, 0, 2))]
    write_run(tmp_path, rows=rows)
    cells = report([read_run(tmp_path, "fake")])[0].cells.set_index("result")
    row = cells.loc["majority class (positive) [SYNTHETIC]"]
    assert row[["UF1", "UAR", "accuracy"]].tolist() == ["0.2500", "0.3333", "0.6000"]
    # F1 of positive: 2·6/(2·6 + 4) = 3/4, a third of it


def test_markdown_and_latex_hold_the_same_cells(tmp_path):
    write_run(tmp_path, "under_score", class_names=["negative", "positive", "a" * 60])
    tables = report([read_run(tmp_path, "under_score")])
    text, markdown, latex = (render(tables, form) for form in ("text", "markdown", "latex"))
    cell = tables[0].cells["UF1"][0]
    assert cell in text and cell in markdown and cell in latex
    lines = [line for line in markdown.split("\n\n")[1].splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "under\\_score [SYNTHETIC, quick] &" in latex
    assert latex.count("\\begin{tabular}") == latex.count("\\end{tabular}") == 2
    assert "a" * 21 + "..." in text and "a" * 22 not in text
