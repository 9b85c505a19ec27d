"""How a program prints and ends: readable on any terminal, with one line for a person and an exit code."""

import argparse
import contextlib
import errno
import os
import signal
import sys
from pathlib import Path

from common.errors import InputError, is_full, reason


class Parser(argparse.ArgumentParser):
    """argparse with a docstring as it is written, and one line, no usage block, when an option is wrong."""

    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (--help lists the options)\n")


KEPT = "what is finished is kept"
GOES_ON = f"{KEPT}: run the same command again to go on"


def run_main(main, stopped="nothing is kept"):
    """Call `main()` and exit with its return value; print an InputError, a place that cannot be read or
    written, a name that is not UTF-8 where it must be, or a full memory as one line.

    Ctrl-C and SIGTERM end with one line that says what is `stopped`, exit code 130.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _console():
            code = main() or 0
    except KeyboardInterrupt:
        print(f"\nstopped; {stopped}", file=sys.stderr)
        code = 130
    except (InputError, OSError, UnicodeEncodeError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_full(error):
            raise
        code = InputError.exit_code
        module = getattr(sys.modules["__main__"], "__spec__", None)        # of python -m
        name = module.name.removesuffix(".__main__") if module else Path(sys.argv[0]).name
        if isinstance(error, OSError):
            place = error.filename or "a place without a name"
            error = InputError(f"{place}: {error.strerror or error}; choose one that you may use")
        elif isinstance(error, UnicodeEncodeError):
            error = InputError(f"{error.object}: a name that is not UTF-8; rename the file or folder")
        elif isinstance(error, MemoryError | RuntimeError):
            error = InputError(f"the memory is full ({reason(error)}); give fewer or smaller files, or "
                               "--device cpu")
        print(f"{name}: {error}", file=sys.stderr)
    sys.exit(code)


def _interrupt(signum, frame):
    raise KeyboardInterrupt


@contextlib.contextmanager
def _console():
    """Characters that the terminal lacks are printed as escapes; a closed pipe (`| head`) ends the program
    quietly, with exit code 141 as for others; what goes to an output that was closed from the start is lost.

    Raises: InputError when the output cannot be written, such as on a full disk.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:      # closed by whoever started the program (`>&-`)
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        if hasattr(stream := getattr(sys, name), "reconfigure"):
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
