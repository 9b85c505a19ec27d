"""get_result_log.py, the real file, on result folders with drawn predictions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_runs import change_json, write_run

ROOT = Path(__file__).parents[2]
TABLES = ("result_log.csv", "class_log.csv", "predictions.csv")


def run_script(*arguments, **environment):
    """Run the script with `arguments`; returns the finished process."""
    return subprocess.run([sys.executable, str(ROOT / "get_result_log.py"), *map(str, arguments)],
                          capture_output=True, text=True, errors="replace", cwd=ROOT, timeout=120,
                          check=False, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


def shell(command, root):
    """Run the script in a shell, `command` with SCRIPT for it."""
    script = f"{sys.executable} get_result_log.py --no-figures --result-root {root}"
    return subprocess.run(["bash", "-c", command.replace("SCRIPT", script)], capture_output=True, text=True,
                          cwd=ROOT, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_writes_the_tables_and_the_figures(tmp_path):
    folder = write_run(tmp_path, missing=("synthetic_s02",))
    done = run_script("--result-root", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "strict (last epoch)" in done.stdout and "leaks the test fold" in done.stdout
    assert "3/4 (1 missing)" in done.stdout
    log = (tmp_path / "result_log.csv").read_text().splitlines()
    assert log[0] == "experiment,dataset,evaluation,subject,clips,accuracy,uf1,uar"
    assert len(log) == 1 + 2 * (3 + 1)
    predictions = (tmp_path / "predictions.csv").read_text().splitlines()
    assert predictions[0] == "experiment,evaluation,data,subject,clip,y_true,y_pred,epoch"
    assert len(predictions) == 1 + 2 * 15
    classes = (tmp_path / "class_log.csv").read_text().splitlines()
    assert classes[0] == "experiment,dataset,evaluation,class,clips,predicted,precision,recall,f1"
    assert len(classes) == 1 + 2 * 3
    assert len(list((folder / "figures").iterdir())) == 4
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
        texts.append([done.stdout.replace(str(root), ""), *((root / name).read_bytes() for name in TABLES)])
    assert texts[0] == texts[1]
    assert not (tmp_path / "a/fake/figures").exists()


def test_selects_an_experiment_but_keeps_the_log_whole(tmp_path):
    write_run(tmp_path, "first")
    write_run(tmp_path, "second", config={"learning_rate": 0.5})
    done = run_script("--result-root", tmp_path, "--experiment", "second", "--no-figures", "--markdown")
    assert done.returncode == 0, done.stderr
    assert "| second [SYNTHETIC, quick] |" in done.stdout and "first" not in done.stdout
    assert "first," in (tmp_path / "result_log.csv").read_text()


def test_experiments_may_be_named_one_by_one_and_the_table_is_shown_where_no_file_can_be_written(tmp_path):
    for name in ("first", "second", "third"):
        write_run(tmp_path, name)
    (tmp_path / "class_log.csv").mkdir()
    done = run_script("--result-root", tmp_path, "--experiment", "first", "--experiment", "second")
    assert done.returncode == 2 and "class_log.csv: a folder, pipe or device" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "third" not in done.stdout
    assert all(f"{name} [SYNTHETIC, quick]" in done.stdout for name in ("first", "second"))


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


def test_fuses_experiments_as_one_more_row_everywhere(tmp_path):
    for name in ("A", "B"):
        write_run(tmp_path, name, config={"model": name})
    write_run(tmp_path, "partial", config={"model": "C"}, missing=("synthetic_s01",))
    done = run_script("--result-root", tmp_path, "--no-figures", "--experiment", "A", "--fuse", "A", "B")
    assert done.returncode == 0, done.stderr
    assert "A+B [SYNTHETIC, quick]" in done.stdout
    for name in TABLES:
        lines = (tmp_path / name).read_text().splitlines()
        assert any(line.startswith("A+B,") for line in lines)
        assert not any(line.startswith("A+B,") and "paper" in line for line in lines)
    done = run_script("--result-root", tmp_path, "--fuse", "A", "partial")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "1 of 4 folds of partial" in done.stderr


@pytest.mark.parametrize("again", [("--fuse", "A", "B"), ()])
def test_two_rows_of_one_name_are_refused(tmp_path, again):
    """predictions.csv would have each clip twice under that name."""
    for name in ("A", "B", *(() if again else ("A+B",))):
        write_run(tmp_path, name, config={"model": name})
    done = run_script("--result-root", tmp_path, "--no-figures", "--fuse", "A", "B", *again)
    assert done.returncode == 2 and "two rows would be called A+B" in done.stderr
    assert not (tmp_path / "predictions.csv").exists()


def test_a_long_name_does_not_widen_the_printed_table(tmp_path):
    names = [f"model-{'part-' * count}end" for count in (10, 11, 12)]
    for name in names:
        write_run(tmp_path, name, config={"model": name})
    alone, fused = (run_script("--result-root", tmp_path, "--no-figures", "--experiment", names[0], *more)
                    for more in ([], ["--fuse", *names]))
    widths = [max(map(len, done.stdout.split("strict:")[0].splitlines())) for done in (alone, fused)]
    assert widths[1] - widths[0] < 40 < len("+".join(names)) - len(names[0])


def test_a_reader_that_goes_away_leaves_whole_tables_and_a_quiet_end(tmp_path):
    write_run(tmp_path)
    assert run_script("--result-root", tmp_path, "--no-figures").returncode == 0
    whole = {name: (tmp_path / name).read_bytes() for name in TABLES}
    for command, code in (("SCRIPT | true; exit ${PIPESTATUS[0]}", 141), ("SCRIPT > /dev/full", 2)):
        for name in TABLES:
            (tmp_path / name).unlink()
        done = shell(command, tmp_path)
        assert done.returncode == code
        assert done.stderr.count("\n") == (code == 2)
        assert {name: (tmp_path / name).read_bytes() for name in TABLES} == whole


def test_a_terminal_without_the_characters_gets_escapes(tmp_path):
    write_run(tmp_path, "тест")
    done = run_script("--result-root", tmp_path, "--no-figures", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert "\\u0442" in done.stdout
    assert "тест," in (tmp_path / "result_log.csv").read_text(encoding="utf-8")


def test_a_folder_whose_name_is_not_utf_8_is_one_line(tmp_path):
    write_run(tmp_path, "good")
    write_run(tmp_path, os.fsdecode(b"bad\xff"))
    done = run_script("--result-root", tmp_path, "--no-figures")
    assert done.returncode == 0, done.stderr
    assert sum("not a plain name" in line for line in done.stdout.splitlines()) == 1
