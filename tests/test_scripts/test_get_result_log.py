"""get_result_log.py, the real file, on result folders with drawn predictions."""

import os
import subprocess
import sys
from pathlib import Path

from tests.fake_runs import change_json, write_run

ROOT = Path(__file__).parents[2]


def run_script(*arguments):
    """Run the script with `arguments`; returns the finished process."""
    return subprocess.run([sys.executable, str(ROOT / "get_result_log.py"), *map(str, arguments)],
                          capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_writes_both_tables_and_the_figures(tmp_path):
    folder = write_run(tmp_path, missing=("synthetic_s02",))
    done = run_script("--result-root", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "strict (last epoch)" in done.stdout and "best test epoch: leaks the test fold" in done.stdout
    assert "3/4 (1 missing)" in done.stdout
    log = (tmp_path / "result_log.csv").read_text().splitlines()
    assert log[0] == "experiment,dataset,evaluation,subject,clips,accuracy,uf1,uar"
    assert len(log) == 1 + 2 * (3 + 1)
    predictions = (tmp_path / "predictions.csv").read_text().splitlines()
    assert predictions[0] == "experiment,evaluation,data,subject,clip,y_true,y_pred,epoch"
    assert len(predictions) == 1 + 2 * 15
    assert len(list((folder / "figures").iterdir())) == 8
    assert not list(tmp_path.rglob("*.part*"))


def test_same_folds_give_the_same_bytes_whatever_their_dates(tmp_path):
    for root in (tmp_path / "a", tmp_path / "b"):
        folder = write_run(root)
    for path in (folder / "folds").iterdir():
        change_json(path, date="2027-05-05T00:00:00+00:00", seconds=99.0, environment={"python": "3.12"})
    texts = []
    for root in (tmp_path / "a", tmp_path / "b"):
        done = run_script("--result-root", root, "--no-figures")
        assert done.returncode == 0, done.stderr
        texts.append([done.stdout, *((root / name).read_bytes() for name in ("result_log.csv",
                                                                             "predictions.csv"))])
    assert texts[0] == texts[1]
    assert not (tmp_path / "a/fake/figures").exists()


def test_selects_an_experiment_but_keeps_the_log_whole(tmp_path):
    write_run(tmp_path, "first")
    write_run(tmp_path, "second", config={"learning_rate": 0.5})
    done = run_script("--result-root", tmp_path, "--experiment", "second", "--no-figures", "--markdown")
    assert done.returncode == 0, done.stderr
    assert "| second [SYNTHETIC, quick] |" in done.stdout and "first" not in done.stdout
    assert "first," in (tmp_path / "result_log.csv").read_text()


def test_a_broken_fold_is_named_and_the_rest_is_read(tmp_path):
    folder = write_run(tmp_path)
    (folder / "folds/synthetic_s00.json").write_text('{"half": ')
    done = run_script("--result-root", tmp_path, "--no-figures", "--latex")
    assert done.returncode == 0, done.stderr
    assert "synthetic_s00.json: not a readable JSON file" in done.stdout
    assert "Traceback" not in done.stderr


def test_nothing_there_and_unknown_names_end_with_one_line_and_code_2(tmp_path):
    write_run(tmp_path / "some")
    for arguments in (("--result-root", tmp_path / "none"),
                      ("--result-root", tmp_path / "some", "--experiment", "../some")):
        done = run_script(*arguments)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("get_result_log.py: ")
        assert done.stdout == ""


def test_figures_are_not_written_through_a_link_that_leaves(tmp_path):
    folder = write_run(tmp_path / "result")
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "figures").symlink_to(outside)
    done = run_script("--result-root", tmp_path / "result")
    assert done.returncode == 2
    assert "leads out of" in done.stderr
    assert not list(outside.iterdir())
