"""Results that a person can read: tables and figures from the folders that the training scripts wrote.

Inputs: result/<experiment>/experiment.json and folds/*.json, also of runs that are not finished.
Outputs: result/result_log.csv, class_log.csv, predictions.csv; result/<experiment>/figures/*.png and *.pdf;
printed tables: each experiment, strict beside the best test epoch, with baselines and published numbers,
then class by class.
Command: python get_result_log.py [--experiment NAME ...] [--fuse NAME NAME ...] [--compare NAME NAME ...]
[--markdown | --latex]
Expected: about 3 s for each experiment (1 s without figures).
"""

import argparse
import sys
from pathlib import Path

from capsule.fusion import compare, fuse
from capsule.results import class_log, prediction_log, read_runs, result_log, select
from capsule.tables import render, report
from common.console import KEPT, Parser, run_main
from common.errors import InputError
from common.files import write_csv

RESULT_ROOT = "result"    # where the training scripts wrote
FIGURES = True            # PNG and PDF of each experiment


def options():
    """The command line, the constants above as defaults."""
    parser = Parser(description=__doc__)
    parser.add_argument("--result-root", default=RESULT_ROOT, help=f"folder of the results [{RESULT_ROOT}]")
    parser.add_argument("--experiment", nargs="+", action="extend", default=[], metavar="NAME",
                        help="print and draw only these experiments [all]; may be given again")
    parser.add_argument("--fuse", nargs="+", action="append", default=[], metavar="NAME",
                        help="one more row: the strict outputs of these finished experiments, each scaled to "
                             "a sum of 1, averaged clip by clip; may be given again")
    parser.add_argument("--compare", nargs="+", action="append", default=[], metavar="NAME",
                        help="how far the first's strict UF1 lies above the mean of the others', with a "
                             "paired interval over subjects; may be given again")
    parser.add_argument("--figures", action=argparse.BooleanOptionalAction, default=FIGURES,
                        help=f"draw the figures [{FIGURES}]")
    form = parser.add_mutually_exclusive_group()
    for name in ("markdown", "latex"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, default="text",
                          help=f"print the table as {name} [text]")
    return parser.parse_args()


def main():
    """Read, write the CSV files, print the tables, draw the figures."""
    choice = options()
    root = Path(choice.result_root)
    runs, broken = read_runs(root)
    chosen = select(runs, broken, choice.experiment)
    fused = [fuse(select(runs, broken, names)) for names in choice.fuse]
    names = [run.name for run in [*runs, *fused]]
    if again := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--fuse: two rows would be called {again[0]}; give each fusion once, or another "
                         "name to the experiment that is called so")
    compared = [compare(select([*runs, *fused], broken, names)) for names in choice.compare]
    logs = {"result_log": result_log, "class_log": class_log, "predictions": prediction_log}
    try:
        for name, log in logs.items():
            write_csv(root / f"{name}.csv", log([*runs, *fused]))
    finally:        # also where they cannot be written
        print(render(report([*chosen, *fused], [*compared, *broken.values()]), choice.form), flush=True)
    print(f"tables in {root}: result_log.csv, class_log.csv, predictions.csv", file=sys.stderr)
    if choice.figures:
        from capsule.figures import run_figures  # matplotlib takes a second to load

        for run in chosen:
            if run.finished:
                folder = run.folder / "figures"
                names = [path.name for path in run_figures(run, folder) if path.suffix == ".png"]
                print(f"figures in {folder}: {', '.join(names)} (and as PDF)", file=sys.stderr)


if __name__ == "__main__":
    run_main(main, KEPT)
