"""Command-line options that several benchmarks share."""

import argparse


def machine_parser(module, doc):
    """The parser of `python -m <module>` with the options of every training benchmark: device, threads."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads [0: all cores]")
    return parser


def add_race_options(parser, steps, steps_help):
    """Add what a race between the two loops is told; steps: the default."""
    parser.add_argument("--steps", type=at_least_one, default=steps, help=steps_help)
    parser.add_argument("--batch-size", type=at_least_one,
                        help="[each network's script's own: 32 for 2-D, else 16]")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"),
                        help="of our loop [auto]")
    parser.add_argument("--quick", action="store_true", help="small networks, inputs and matrices")


def at_least_one(text):
    """A whole number of 1 or more, for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)
