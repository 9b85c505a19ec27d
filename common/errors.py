"""The error that a person is meant to read: one line, the file or clip, the remedy."""


class InputError(Exception):
    """Something the user gave cannot be used.

    The message is one line that names the file, clip or option and says what to do about it. Scripts print it
    without a traceback and leave with exit code 2.
    """

    exit_code = 2
