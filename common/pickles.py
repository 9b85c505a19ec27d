"""Pickles looked through before they are read: nothing in them is made, nothing runs."""

import pickletools

MAX_PARTS = 2000    # of a tuple and of the tuples in it; the largest in use has some 20
MAX_MEMO = 10**6    # place in a reader's table of what may come again


def check_pickle(data, most):
    """Raise ValueError for a pickle of more than `most` opcodes, and for one that would harm its reader.

    data: bytes, or a stream that stands at a pickle. A reader hashes what stands as a key: a pair of twice
    the same pair of twice ... takes 2, 4, 8, ... steps, and a tuple in a tuple in ... more stack than C has.
    Python's own makes its table as long as the file says.
    """
    stack, memo = [], {}        # how many parts each thing has; None: a mark
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        name, taken = opcode.name, opcode.stack_before
        if name in ("EXT1", "EXT2", "EXT4"):        # of what was asked for once, past `find_class`
            raise ValueError("asks for something by a number")
        first = len(stack) - len(taken)
        if pickletools.markobject in taken:
            mark = next((place for place in reversed(range(len(stack))) if stack[place] is None), 0)
            first = mark - taken.index(pickletools.markobject)
        first = max(0, first)
        parts, made = 1 + sum(filter(None, stack[first:])), [1] * len(opcode.stack_after)
        if name == "MARK":
            made = [None]
        elif "GET" in name:
            made = [memo.get(argument, 1)]
        elif name in ("MEMOIZE", "DUP"):
            made = stack[first:] * len(made)
        elif "TUPLE" in name or name == "FROZENSET":
            made = [parts]
            if parts > MAX_PARTS:
                raise ValueError("tuples within tuples")
        stack[first:] = made
        if "PUT" in name or name == "MEMOIZE":
            place = len(memo) if argument is None else argument
            memo[place] = stack[-1] or 1
            if place > MAX_MEMO:
                raise ValueError(f"a table of {place} things")
        if count >= most:
            raise ValueError("far more parts than such a file has")
