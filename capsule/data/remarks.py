"""Remarks: what a reader of the results should know of some clips, as data and as printed lines."""

import numpy as np

from common.errors import printable

SHOWN = 10      # names that a line shows


def remark(what, clips, count=None):
    """A list of one remark {"what", "count", "clips"}; empty if `clips` is. count: default len(clips)."""
    return [{"what": what, "count": len(clips) if count is None else count, "clips": clips}] if clips else []


def said_of(clips, which):
    """Print remarks on clips of a table. which: {what: bool (clips,)}. Returns: the remarks, a tuple."""
    keys = np.array(clips.keys)
    said = tuple(one for what, those in which.items() for one in remark(what, keys[those].tolist()))
    say(said)
    return said


def line(remark):
    """A remark as a line to print, its first clips named."""
    return printable(f"  {remark['what']} ({remark['count']}): {listed(remark['clips'])}")


def say(remarks):
    """Print remarks, a line each."""
    for one in remarks:
        print(line(one), flush=True)


def listed(names):
    """Text of the first SHOWN of `names`, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
