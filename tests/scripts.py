"""Runs the real scripts: in this process, where coverage sees them, or in one of their own, to be killed."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMES = ("seconds", "images_per_second", "date")    # all that may differ between two runs of one fold


def run_script(monkeypatch, name, *options):
    """Run `name` as `python name options...` in this process. Returns: its exit code."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / name), *map(str, options)])
    try:
        runpy.run_path(str(ROOT / name), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


def start_script(name, *options, **keywords):
    """`python name options...` as a process of its own: a Popen with text pipes."""
    return subprocess.Popen([sys.executable, str(ROOT / name), *map(str, options)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords)


def folds(result_root, drop=TIMES):
    """{path below `result_root`: value} of every fold file, without its timings."""
    found = {}
    for path in sorted(Path(result_root).glob("*/folds/*.json")):
        value = json.loads(path.read_text())
        value.get("environment", {}).pop("git_commit", None)    # a checkout may be edited between two runs
        found[str(path.relative_to(result_root))] = {k: v for k, v in value.items() if k not in drop}
    return found
