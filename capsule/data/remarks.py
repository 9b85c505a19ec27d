"""What a reader of the results should know of some clips: made, and put into words, in one way."""

import numpy as np

from common.errors import printable

SHOWN = 10      # names that a line shows


def remark(what, clips, count=None):
    """[{"what", "count", "clips"}], or nothing when there is nothing to remark. count: default the clips'."""
    return [{"what": what, "count": len(clips) if count is None else count, "clips": clips}] if clips else []


def said_of(clips, which):
    """Print remarks on some clips of a table. which: {what to remark: bool (clips,)}. Returns: them."""
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
    """The first of `names`, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
