"""Late fusion: by hand, its name, and what it refuses."""

import numpy as np
import pytest

from capsule.fusion import compare, fuse, fused_name, shares
from capsule.results import class_log, prediction_log, read_runs, result_log, stem
from capsule.tables import render, report
from common.errors import InputError
from common.files import read_json
from tests.fake_runs import change_json, clip_list, said_strictly, write_run


def two_runs(root, first, second, reverse=False):
    """Runs A and B on two subjects of one clip each, truth 0 and 1, with these lengths for the two."""
    rows = clip_list(subjects=2, clips=1)
    for name, lengths in (("A", first), ("B", second)):
        folder = write_run(root, name, rows, epochs=1, config={"model": name})
        for data_sub, row in zip(("synthetic_s00", "synthetic_s01"), lengths, strict=True):
            change_json(folder / f"folds/{data_sub}.json", lengths=[row],
                        strict=[[row.index(max(row))]])
    return read_runs(root)[0]


def test_by_hand(tmp_path):
    # A: capsule lengths of sums 2 and 1; B: probabilities
    runs = two_runs(tmp_path, [[0.9, 0.9, 0.2], [0.2, 0.3, 0.5]], [[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]])
    fused = fuse(runs)
    assert fused.name == "A+B" and not fused.missing and fused.labels == ("SYNTHETIC", "quick")
    noted = [{"what": "no face", "count": 2, "clips": ["a", "b"]}]
    change_json(tmp_path / "A" / "experiment.json", notes=noted)
    assert fuse(read_runs(tmp_path)[0]).remarks == (("no face", 2),)
    assert fused.finished["synthetic_s00"].lengths[0] == pytest.approx([0.325, 0.375, 0.3])
    assert fused.finished["synthetic_s01"].lengths[0] == pytest.approx([0.15, 0.45, 0.4])
    log = prediction_log([fused])
    assert log[["evaluation", "y_true", "y_pred"]].values.tolist() == [["strict", 0, 1], ["strict", 1, 1]]
    assert set(result_log([fused])["evaluation"]) == set(class_log([fused])["evaluation"]) == {"strict"}
    text = render(report([*runs, fused]))
    assert sum(line.startswith("A+B [SYNTHETIC, quick]") for line in text.splitlines()) == 2


def test_clips_are_joined_by_name_not_by_row(tmp_path):
    rows = clip_list(subjects=2, clips=3)
    for name in "AB":
        folder = write_run(tmp_path, name, rows, epochs=1, config={"model": name})
        change_json(folder / "folds/synthetic_s00.json", **said_strictly([[0, 1, 2]]))    # clip i: class i
    fold = {"clips": [{"data": "synthetic", "subject": "s00", "clip": f"c{i}"} for i in (2, 1, 0)],
            "y_true": [2, 1, 0], "paper": [[2, 1, 0]], **said_strictly([[2, 1, 0]])}
    change_json(folder / "folds/synthetic_s00.json", **fold)
    fused = fuse(read_runs(tmp_path)[0]).finished["synthetic_s00"]
    assert [clip[2] for clip in fused.clips] == ["c0", "c1", "c2"]
    assert fused.predictions["strict"].tolist() == [[0, 1, 2]]


def test_what_the_runs_tables_say_the_fused_row_says_too(tmp_path):
    two_runs(tmp_path, [[0.9, 0.8, 0.2], [0.2, 0.3, 0.5]], [[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]])
    assert not fuse(read_runs(tmp_path)[0]).notes
    for name in ("synthetic_s00", "synthetic_s01"):
        path = tmp_path / "B/folds" / f"{name}.json"
        change_json(path, environment={**read_json(path)["environment"], "threads": 64})
    (note,) = fuse(read_runs(tmp_path)[0]).notes
    assert note == "A+B: made with differing threads (said in its runs' folds)"


def test_compared_runs_are_joined_by_clip(tmp_path):
    a, b = two_runs(tmp_path, [[0.9, 0.8, 0.2], [0.2, 0.5, 0.3]], [[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]])
    # truth 0, 1: A has both right, B the second alone, UF1 over three classes 2/3 and 1/3
    assert compare([a, b]).startswith("A over B: strict UF1 +0.333 [+0.000, +0.")
    assert compare([b, a]).startswith("B over A: strict UF1 -0.333 [-0.")
    assert compare([a, b, a]).startswith("A over B+A (mean): strict UF1 +0.167 [")
    with pytest.raises(InputError, match="--compare A: name at least two"):
        compare([a])


def test_shares_add_up_to_one_and_keep_the_order():
    lengths = np.array([[0.0, 0.0], [0.5, 1.5]])
    assert shares(lengths).tolist() == [[0.5, 0.5], [0.25, 0.75]]
    logits = np.array([[-1.0, 1.0], [800.0, 801.0]])
    assert shares(logits) == pytest.approx(np.array([[0.1192, 0.8808], [0.2689, 0.7311]]), abs=1e-4)


def test_names():
    assert fused_name(["A", "B"]) == "A+B"
    assert fused_name(["x-STSTNet-seed9", "x-SVM-seed9"]) == "x-STSTNet+SVM-seed9"
    assert fused_name(["x-seed9", "y"]) == "x-seed9+y"
    assert fused_name(["x-1", "x-2", "y-1", "y-2"]) == "x+y-1+2"
    assert fused_name(["x-1", "y-2"]) == "x-1+y-2"        # not as the four


def test_seeds_of_one_configuration(tmp_path):
    for seed in (9, 10):
        write_run(tmp_path, f"fake-seed{seed}", seed=seed)
    fused = fuse(read_runs(tmp_path)[0])
    assert (fused.name, fused.facts["seed"]) == ("fake-seed10+seed9", "10+9")
    assert stem(fused) == "fake"


def test_what_cannot_be_fused_is_one_line(tmp_path):
    write_run(tmp_path, "A")
    write_run(tmp_path, "half", missing=("synthetic_s01",))
    write_run(tmp_path, "other", rows=clip_list(subjects=3))
    relabelled = clip_list(subjects=4)
    relabelled[0]["label"] = 1 - relabelled[0]["label"]
    write_run(tmp_path, "relabelled", rows=relabelled)
    runs = {run.name: run for run in read_runs(tmp_path)[0]}
    for names, words in ((("A",), "at least two"), (("A", "half"), "1 of 4 folds of half are missing"),
                         (("A", "other"), "differing clip lists"),
                         (("A", "relabelled"), "differing clip lists or labels")):
        with pytest.raises(InputError, match=words) as caught:
            fuse([runs[name] for name in names])
        assert "\n" not in str(caught.value)
