"""Make a synthetic database: computer-generated people with subtle expressions, laid out as CASME II.

    python -m synthetic --data-root G1 --glasses 1

Its numbers say that the pipeline works, not how good a method is: no person is in it. The same seed with
another share of glasses gives the same people, clips and light. The default takes a minute on one core.
"""

from common.console import Parser, run_main
from synthetic.clips import OPTIONS, Settings
from synthetic.database import make_synthetic


def main(argv=None):
    """Command line; see the module's docstring. Raises: InputError."""
    parser = Parser(prog="python -m synthetic", description=__doc__)
    parser.add_argument("--data-root", default="data", help="folder of the databases [data]")
    for name, (_, _, text) in OPTIONS.items():
        default = getattr(Settings, name)
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default,
                            help=f"{text} [{default}]")
    options = vars(parser.parse_args(argv))
    root = options.pop("data_root")
    folder = make_synthetic(root, progress=True, **options)
    clips, frames = len(list(folder.glob("sub*/*"))), len(list(folder.rglob("*.jpg")))
    print(f"{folder}: {clips} synthetic clips, {frames} frames; to train on it: --dataset synthetic "
          f"--data-root {root}")


if __name__ == "__main__":
    run_main(main)
