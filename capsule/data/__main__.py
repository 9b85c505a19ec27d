"""Write the annotation table of a clip list and show its counts.

    python -m capsule.data casme --classes 5 --data-root data

reads the owners' sheets under the data root, or a clip list of yours (--protocol FILE), writes
<data-root>/annotations/<dataset>_<classes>[_<protocol>][_glasses].csv and prints clips, subjects, clips per
class, and how many of their apex frames are on disk. Takes a few seconds. Exit code 2 when none is.
"""

import pandas as pd

from capsule.data.databases import DATABASES
from capsule.data.protocol import PROTOCOLS, SUBSETS, load_clips
from common.console import Parser, run_main
from common.errors import InputError
from common.files import write_csv


def main(argv=None):
    """Parse `argv`, write the table, print the counts. Raises: InputError, see `load_clips`, or no frames."""
    parser = Parser(prog="python -m capsule.data", description=__doc__)
    parser.add_argument("dataset", help=f"{', '.join(DATABASES)}, or as you write them")
    parser.add_argument("--classes", type=int, choices=(3, 5), default=3, help="5: CASME II only [3]")
    parser.add_argument("--protocol", default=PROTOCOLS[0], metavar="NAME|FILE",
                        help=f"clip list: {', '.join(PROTOCOLS)}, or a .csv file of clips [{PROTOCOLS[0]}]")
    parser.add_argument("--subset", choices=SUBSETS, default="all", help="only subjects with glasses? [all]")
    parser.add_argument("--data-root", default="data", help="folder of the databases [data]")
    parser.add_argument("--skip-missing", action="store_true", help="drop clips without an apex frame")
    parser.add_argument("--frames", default="", help="part of the name of the folder to take frames from")
    clips = load_clips(**vars(parser.parse_args(argv)))
    path = clips.data_root / "annotations" / f"{clips.notes['name']}.csv"
    write_csv(path, clips.table)
    print(f"\n{count_table(clips)}\n\nread: {', '.join(clips.notes['sheets'])}\nwritten: {path}")
    if not clips.apex_on_disk.any():
        raise InputError("no apex frame is on disk (what was looked for is said above); see data/README.md")


def count_table(clips):
    """Counts by database and in all, as text: clips, subjects, clips per class, apex frames on disk."""
    table = clips.table.assign(on_disk=clips.apex_on_disk)
    parts = list(table.groupby("data", sort=False))
    parts += [("all", table)] if len(parts) > 1 else []
    rows = [{"data": name, "clips": len(part), "subjects": part["data_sub"].nunique(),
             **{word: (part["label"] == i).sum() for i, word in enumerate(clips.class_names)},
             "apex frames on disk": part["on_disk"].sum()} for name, part in parts]
    return pd.DataFrame(rows).to_string(index=False)


if __name__ == "__main__":
    run_main(main)
