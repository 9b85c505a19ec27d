"""The error that a person is meant to read: one line, the file or clip, the remedy."""


def printable(text):
    """`text` as one line for a terminal: what cannot be printed is written as an escape."""
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in str(text))


def reason(error):
    """What an exception says, one line of at most 100 characters; its type where it says nothing."""
    text = f"no {error}" if isinstance(error, KeyError) else str(error)      # of a key, it says the key alone
    return " ".join(text.split())[:100] or type(error).__name__


def is_full(error):
    """Whether a RuntimeError is torch's way to say that the memory, the computer's or a GPU's, is full."""
    text = f"{type(error).__name__}: {error}"
    return any(words in text for words in ("OutOfMemoryError", "out of memory", "can't allocate memory",
                                           "ALLOC_FAILED"))


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one line, `printable`, that names the file, clip or option and says what to do about it: no
    file or name speaks to the terminal. Scripts print it without a traceback and leave with exit code 2.
    """

    exit_code = 2

    def __init__(self, message):
        super().__init__(printable(message))


def broken_file(path, error):
    """The InputError for a downloaded file that could not be read to its end because of `error`."""
    return InputError(f"{path}: truncated or broken ({reason(error)}); download it anew from its owner")
