"""The embedded database: a procedural head, painted, fitted with glasses, filmed. Nobody real is in it."""

from pathlib import Path

from common.errors import InputError
from common.files import read_json

RECIPE = 6      # raise it when the same settings would give other pictures
FOLDER, SHEET, MANIFEST = "synthetic", "CASME2-coding-20140508.xlsx", "synthetic.json"


def is_there(data_root):
    """Whether a synthetic database, of any settings, lies under `data_root`; one that another version of the
    program made is said. Raises: InputError where `data_root` is such a database itself."""
    folder = Path(data_root) / FOLDER
    if (folder.parent / MANIFEST).is_file():
        raise InputError(f"--data-root {data_root}: a synthetic database itself; give the folder above it")
    if (folder / MANIFEST).is_file():       # where it is not, somebody else's pictures lie there
        made = read_json(folder / MANIFEST).get("settings")
        if not (isinstance(made, dict) and made.get("recipe") == RECIPE):
            print(f"{folder}: made by another version of this program, with other pictures; remove it to "
                  "make it anew", flush=True)
    return (folder / SHEET).is_file()
