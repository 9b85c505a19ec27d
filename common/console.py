"""What a script prints: readable on any terminal, and an honest end when nobody can take it."""

import contextlib
import errno
import os
import sys

from common.errors import InputError


@contextlib.contextmanager
def console():
    """Context manager, or decorator of a script's `main`: characters that the terminal lacks are printed
    as escapes; a closed pipe (`| head`) ends the script quietly, with exit code 141 as for other programs.

    Raises: InputError when the output cannot be written, such as on a full disk.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            print(end="", flush=True)
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())    # else Python's own last flush fails
        if error.errno == errno.EPIPE:
            sys.exit(141)
        raise InputError(f"the output cannot be written ({error.strerror}); send it elsewhere") from error
