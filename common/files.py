"""Files that are there whole or not at all."""

import contextlib
import importlib.util
import json
import os
import platform
import re
import time
import uuid
from pathlib import Path

from common.errors import InputError

_HOST = re.sub(r"[^A-Za-z0-9]", "", platform.node())[:20]
_LEFTOVER = re.compile(r"\..+\.([A-Za-z0-9]*)-([0-9]+)\.\w+\.part(\.\w+)?")
DAY = 86_400    # seconds


@contextlib.contextmanager
def whole_file(path):
    """Context manager: a temporary path beside `path`, moved onto it when the block ends well.

    A reader never sees a half-written file: the move is atomic on one file system. The temporary file is
    removed when the block raises. Missing folders are made.

    Raises: InputError, naming the path, when the disk is full, the folder cannot be written, or `path` is a
    folder or a device: root's `--out /dev/null` would take the machine's away.
    """
    path = Path(path)
    unique = f"{_HOST}-{os.getpid()}.{uuid.uuid4().hex[:8]}"
    temporary = path.parent / f".{path.name[:40]}.{unique}.part{path.suffix}"
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"{path}: a folder, pipe or device, no file; remove it, or choose another place")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        for place in path.parents:
            if os.path.lexists(place) and not place.is_dir():
                raise InputError(f"{path}: cannot be written: {place} is no folder; remove it, or choose "
                                 "another place") from error
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); "
                         "free some disk space or choose a folder that you may write to") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def sweep(folder):
    """Remove what killed writers left in `folder` and below: temporary files of `whole_file` whose process is
    gone, or that are a day old. Links are not followed; what cannot go is left."""
    for place, _, names in os.walk(folder):
        for name in names:
            match = _LEFTOVER.fullmatch(name)
            path = os.path.join(place, name)
            with contextlib.suppress(OSError):
                if match and (_is_gone(match[1], int(match[2]))
                              or time.time() - os.lstat(path).st_mtime > DAY):
                    os.unlink(path)


def _is_gone(host, pid):
    if host != _HOST or os.name == "nt":        # there 0 is a signal, no question
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass
    return False


def write_bytes(path, data):
    """Write `data` (bytes) to `path`, whole or not at all. Raises: InputError (see `whole_file`)."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path, text):
    """Write `text` as UTF-8 to `path`, whole or not at all. Raises: InputError (see `whole_file`).

    What UTF-8 lacks, bytes of a file's name in another encoding, is written as an escape.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path, value):
    """Write `value` as JSON, keys sorted (same value, same bytes). Raises: InputError; ValueError for NaN."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path, table):
    """Write the pandas DataFrame `table` without its index. Raises: InputError (see `whole_file`)."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _refuse(constant):
    raise ValueError(f"{constant} is no JSON")      # NaN and infinities, which `write_json` refuses too


def read_json(path):
    """The dict in the JSON file `path`. Raises: InputError, naming the file, when there is none."""
    try:
        if not Path(path).is_file():
            raise OSError("no file")
        value = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error}); remove it and run again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object; remove it and run again")
    return value


def installed_file(package, name, remedy):
    """Where the file `name` of a package lies that is installed; the package is not imported.

    Raises: InputError, with the remedy, when it is not there.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise InputError(f"{Path(name).name} of the package {package} is not installed; `{remedy}`")
