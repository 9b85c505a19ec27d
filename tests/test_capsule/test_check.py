"""The preflight screen names what is wrong and what to do about it."""

import ast
import sys
from pathlib import Path

from capsule import check
from tests.make_database import make_database


def _screen(monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, "argv", ["capsule.check", *map(str, options)])
    code = check.main()
    return code, capsys.readouterr().out


def test_a_usable_machine(tmp_path, monkeypatch, capsys):
    root = make_database(tmp_path, "composite")
    code, screen = _screen(monkeypatch, capsys, "--data-root", root, "--result-root", tmp_path)
    assert code == 0, screen
    for words in ("Python 3.1", "torch 2.", "casme: 6 clips, 2 subjects", "6 apex frames on disk",
                  "synthetic: made on first use", "the face mesh makes the views", "GB free", "ready"):
        assert words in screen
    assert len(screen.splitlines()) <= 40            # one screen


def test_what_is_wrong_is_marked(tmp_path, monkeypatch, capsys):
    root = make_database(tmp_path, "casme")
    next(tmp_path.rglob("img14.jpg")).unlink()       # an apex frame
    (tmp_path / "SMIC-HS-E_annotation.csv").write_text("Subject,Filename\n1,s1_ne_01\n")
    code, screen = _screen(monkeypatch, capsys, "--data-root", root)
    assert code == 1
    marked = [line for line in screen.splitlines() if line.strip().startswith("!!")]
    assert any("casme" in line and "5 apex frames on disk; lay the frames" in line for line in marked)
    assert any("smic" in line and "no column" in line for line in marked)


def test_no_data_root(tmp_path, monkeypatch, capsys):
    code, screen = _screen(monkeypatch, capsys, "--data-root", tmp_path / "nowhere")
    assert code == 1 and "no such folder; make it" in screen


def test_bad_official_files_are_marked(tmp_path):
    (tmp_path / "deca_model.tar").write_bytes(b"cut")
    rows = check.official_files(tmp_path)
    assert rows[0][0] == check.BAD and "deca_model.tar" in rows[0][1]
    assert rows[-1][0] == check.NOTE


def test_a_full_disk_is_marked(tmp_path, monkeypatch):
    usage = check.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(check.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert {mark for mark, _ in check.disk(tmp_path, tmp_path)} == {check.BAD}


def test_what_is_imported_is_asked_for():
    """Every top-level module that the code outside tests imports, but Python's, ours and pytorch3d's."""
    root = Path(check.__file__).parents[1]
    ours = {path.name.removesuffix(".py") for path in root.iterdir()}
    imported = set()
    for path in root.glob("**/*.py"):
        if path.relative_to(root).parts[0] in ("tests", ".venv"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                     [node.module] if isinstance(node, ast.ImportFrom) else [])
            imported |= {name.split(".")[0] for name in names}
    asked = set(check.PACKAGES.values())
    assert imported - ours - set(sys.stdlib_module_names) - asked == {"pytorch3d"}
    assert {"openpyxl", "tabulate", "jinja2"} <= asked                          # which pandas imports
    assert {"mediapipe", "face_recognition_models", "tensorboard"} <= asked


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(check, "PACKAGES", {"torch": "torch", "no-such-package": "no_such_module"})
    assert any(mark == check.BAD and "no-such-package" in text for mark, text in check.versions())
