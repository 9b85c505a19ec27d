"""Find the apex frame of every SMIC clip, which its owners did not code.

Inputs    the SMIC frames and annotation sheet under data/ (data/README.md)
Outputs   data/annotations/smic_apex.csv, which the training scripts read: clips spotted now get new rows, all
          other rows stay; a plot of each clip's feature curve in result/smic_apex/
Command   python smic_processing.py
Expect    a few minutes for the 157 clips; stopped and started again, it goes on where it was. Exit code 1
          when a clip's frames or face could not be found. With --dataset casme, samm or synthetic, and
          with a SMIC sheet that codes the apexes, it writes <dataset>_apex_spotted.csv, which nothing
          reads, and says how far off it is.
"""

import os
from pathlib import Path

from capsule.data import database_name, load_clips
from capsule.spotting import judge, merged_table, spot_clips
from common.console import GOES_ON, Parser, run_main
from common.files import write_csv

DATASET = "smic"            # smic | casme | samm | synthetic
SHOWN = 20                  # problems that are printed


def main():
    """Spot, write the table, say what was found. Returns: 1 when a clip could not be spotted."""
    choice = options()
    root = Path(choice.data_root)
    clips = load_clips(choice.dataset, root, frames=None if choice.dataset == "smic" else choice.frames)
    table = clips.table
    by_owners = len(clips.notes["sheets"]) == 1 and bool((table["apex_frame"] >= 0).all())
    known = choice.dataset != "smic" or by_owners
    plots = Path(choice.result_root) / "smic_apex"
    apexes, problems = spot_clips(table, root, plots, choice.workers, choice.frames)
    path = root / "annotations" / f"{choice.dataset}_apex{'_spotted' if known else ''}.csv"
    spotted, kept = merged_table(path, table, apexes, root, choice.frames)
    if len(spotted):
        write_csv(path, spotted)
    print(f"{len(spotted) - kept} of {len(table)} apexes spotted; {path}: "
          + (f"{len(spotted)} rows, {kept} of them kept from before" if len(spotted) else "not written"))
    if known and len(spotted) > kept:
        result = judge(table, apexes)
        print(f"against the coded apexes: mean error {result['mean_error']:.2f} frames, "
              f"{100 * result['within_2']:.1f} % within 2 frames, {result['clips']} clips")
    for problem in problems[:SHOWN]:
        print(problem)
    if len(problems) > SHOWN:
        print(f"and {len(problems) - SHOWN} lines more")
    return 1 if problems else 0


def options():
    """The command line, the constants above as defaults."""
    parser = Parser(description=__doc__)
    parser.add_argument("--dataset", type=database_name, choices=("smic", "casme", "samm", "synthetic"),
                        default=DATASET, help=f"database [{DATASET}]")
    parser.add_argument("--data-root", default="data", help="folder of the databases [data]")
    parser.add_argument("--frames", default="", help="part of the name of the folder to take frames from")
    parser.add_argument("--result-root", default="result", help="folder of the results [result]")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="threads [the number of cores]")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main, GOES_ON)
