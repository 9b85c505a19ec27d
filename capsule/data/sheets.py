"""The owners' annotation sheets: found under the data root, read in any spelling, checked row by row."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from capsule.data.folders import find_child, is_plain_name
from common.errors import InputError

SUFFIXES = (".xlsx", ".xlsm", ".xls", ".csv")
HEADER_ROWS = 40        # the header is looked for in this many rows (SAMM's stands on row 14)


@dataclass(frozen=True)
class Sheet:
    """How one database's owners ship their annotations."""

    stem: str           # file name without its ending
    folder: str         # the database's folder under the data root
    columns: dict       # our name → the owners' name, other spellings after it
    rows: int           # clips in the sheet as shipped
    tab: str = ""       # the tab of the workbook; "" = the first


_CASME = {"subject": ("Subject",), "clip": ("Filename",), "onset": ("OnsetFrame",), "apex": ("ApexFrame",),
          "offset": ("OffsetFrame",), "emotion": ("Estimated Emotion", "Emotion")}
_SMIC = {"subject": ("Subject",), "clip": ("Filename",), "onset": ("OnsetF", "OnsetFrame"),
         "offset": ("OffsetF", "OffsetFrame"), "emotion": ("Emotion", "Estimated Emotion")}
_APEX = {"subject": ("subject",), "clip": ("clip", "Filename"), "apex": ("apex_frame", "ApexF")}

SHEETS = {
    "casme": Sheet("CASME2-coding-20140508", "casme2", _CASME, 255),
    "smic": Sheet("SMIC-HS-E_annotation", "smic", _SMIC, 157, tab="HS"),
    "samm": Sheet("SAMM_Micro_FACS_Codes_v2", "samm", _CASME, 159),
    "synthetic": Sheet("CASME2-coding-20140508", "synthetic", _CASME, 0),
}
SUBJECT_NAME = {"casme": "sub{:02d}", "synthetic": "sub{:02d}", "smic": "{:d}", "samm": "{:03d}"}


def find_sheet(data, root):
    """The path of the sheet of database `data`: in `root`, its `annotations/`, or the database's folder.

    The synthetic database's sheet carries CASME II's file name, so it is looked for in its own folder only.
    Returns None when there is none.
    """
    sheet = SHEETS[data]
    own = find_child(root, sheet.folder)
    places = [own] if data == "synthetic" else [Path(root), find_child(root, "annotations"), own]
    for place in filter(None, places):
        for suffix in SUFFIXES:
            path = find_child(place, sheet.stem + suffix)
            if path is not None:
                return path
    return None


def read_sheet(data, root):
    """The clips of database `data` as its owners coded them.

    Returns: (DataFrame, notes). Columns: subject (as SPEC section 1 writes it), clip, onset, apex (text;
    absent from SMIC), offset (int), emotion (lower case), row (line in the sheet). notes: sheet (path), rows
    (int), duplicates (list of str: repeated identical rows, kept once).
    Raises: InputError, naming sheet and row or column, when the sheet is not there or not usable.
    """
    path = find_sheet(data, root)
    if path is None:
        sheet = SHEETS[data]
        raise InputError(f"{root}: no annotation sheet {sheet.stem}.xlsx (or .csv) there, in annotations/ or "
                         f"in {sheet.folder}/; put the owners' sheet there (data/README.md: where to get it)")
    rows = read_columns(path, SHEETS[data].columns, SHEETS[data].tab)
    records = [_record(data, path, row) for row in rows]
    table, duplicates = _without_duplicates(path, records)
    return table, {"sheet": str(path), "rows": len(records), "duplicates": duplicates}


def read_apexes(path):
    """{clip name in lower case: apex frame} of a SMIC apex table (columns subject, clip, apex_frame).

    Raises: InputError naming the file and the row when a frame is not a number or a clip has two apexes.
    """
    apexes = {}
    for row in read_columns(path, _APEX):
        where = f"{path} row {row['row']}"
        clip, apex = row["clip"].casefold(), frame_number(row["apex"], f"{where}: apex_frame")
        if apexes.setdefault(clip, apex) != apex:
            raise InputError(f"{where}: {row['clip']} has two different apex frames; remove one row, "
                             "or run smic_processing.py again")
    return apexes


def read_columns(path, columns, tab=""):
    """The rows of a sheet as a list of dicts, our column names → stripped text, and `row` → its line number.

    The header is the row that fits `columns` (our name → accepted names) best; case, spaces and
    underscores in names do not matter. Rows whose wanted cells are all empty are left out.
    Raises: InputError naming the sheet and the column that is missing or there twice with different values.
    """
    grid = _read_csv(path) if path.suffix.lower() == ".csv" else _read_workbook(path, tab)
    names = {ours: [_squeeze(name) for name in accepted] for ours, accepted in columns.items()}

    def hits(row):
        present = {_squeeze(cell) for cell in row}
        return sum(any(name in present for name in accepted) for accepted in names.values())

    head = max(range(min(len(grid), HEADER_ROWS)), key=lambda i: (hits(grid[i]), -i), default=None)
    if head is None:
        raise InputError(f"{path}: the sheet is empty; put the owners' sheet in its place")
    position = {ours: _column(path, grid, head, accepted, columns[ours][0])
                for ours, accepted in names.items()}
    found = []
    for i in range(head + 1, len(grid)):
        cells = {ours: grid[i][column] if column < len(grid[i]) else "" for ours, column in position.items()}
        if any(cells.values()):
            found.append({**cells, "row": i + 1})
    if not found:
        raise InputError(f"{path}: the sheet has a header and no clips; put the owners' sheet in its place")
    return found


def frame_number(text, where):
    """`text` as a frame number (int ≥ 0). Raises: InputError starting with `where`."""
    match = re.fullmatch(r"([0-9]{1,15})(\.0*)?", text)
    if match is None:
        raise InputError(f"{where} is {text!r}, not a frame number; correct it in the sheet")
    return int(match[1])


def _column(path, grid, head, accepted, shown):
    """The index of the column with the first of the `accepted` names that the header row has."""
    header = [_squeeze(cell) for cell in grid[head]]
    for name in accepted:
        places = [i for i, cell in enumerate(header) if cell == name]
        if not places:
            continue
        values = [[row[i] if i < len(row) else "" for row in grid[head + 1:]] for i in places]
        if any(column != values[0] for column in values[1:]):
            raise InputError(f"{path}: {len(places)} columns are called {shown!r} and differ; "
                             "remove the wrong one")
        return places[0]
    raise InputError(f"{path}: no column {shown!r} (row {head + 1} has: "
                     f"{', '.join(cell for cell in grid[head] if cell) or 'nothing'}); "
                     "use the owners' sheet as shipped, or rename the column")


def _record(data, path, row):
    """One checked row of an owners' sheet."""
    where = f"{path} row {row['row']}"
    match = re.fullmatch(r"[A-Za-z_ ]*?([0-9]{1,6})(\.0*)?", row["subject"])
    if match is None:
        raise InputError(f"{where}: Subject is {row['subject']!r}, not a number; correct it in the sheet")
    clip = row["clip"]
    if not is_plain_name(clip):
        raise InputError(f"{where}: Filename is {clip!r}; a clip must be a plain folder name inside the "
                         "data root: correct it in the sheet")
    record = {"subject": SUBJECT_NAME[data].format(int(match[1])), "clip": clip,
              "onset": frame_number(row["onset"], f"{where} ({clip}): the onset frame"),
              "offset": frame_number(row["offset"], f"{where} ({clip}): the offset frame"),
              "emotion": " ".join(row["emotion"].casefold().split()), "row": row["row"]}
    if "apex" in row:
        record["apex"] = row["apex"]
    return record


def _without_duplicates(path, records):
    """Records → (table, notes on repeated rows). Two different rows of one clip raise InputError."""
    seen, duplicates = {}, []
    for record in records:
        key = (record["subject"], record["clip"].casefold())
        first = seen.setdefault(key, record)
        if first is record:
            continue
        if any(first[name] != record[name] for name in record if name not in ("row", "clip")):
            raise InputError(f"{path} rows {first['row']} and {record['row']}: {record['subject']} "
                             f"{record['clip']} is there twice with different values; remove the wrong row")
        duplicates.append(f"{record['subject']}/{record['clip']} (row {record['row']} repeats "
                          f"row {first['row']})")
    return pd.DataFrame(list(seen.values())), duplicates


def _squeeze(name):
    """A column name without case, spaces, underscores and punctuation."""
    return re.sub(r"[\W_]", "", name.casefold())


def _read_csv(path):
    """A CSV file (comma, semicolon or tab; UTF-8 or Latin-1) → list of rows of stripped text."""
    try:
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        separator = max(",;\t", key=text.count)
        return [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=separator)]
    except (OSError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}); save the sheet anew") from error


def _read_workbook(path, tab):
    """One tab of an Excel workbook → list of rows of stripped text."""
    if path.suffix.lower() == ".xls":
        raise InputError(f"{path}: the old Excel format cannot be read; save it as .xlsx or .csv")
    try:
        with pd.ExcelFile(path, engine="openpyxl") as book:
            tabs = {name.strip().casefold(): name for name in book.sheet_names}
            name = tabs.get(tab.casefold(), book.sheet_names[0])
            grid = book.parse(name, header=None, dtype=str).fillna("")
    except Exception as error:      # openpyxl lets many kinds of error through from a damaged file
        raise InputError(f"{path}: cannot be read as an Excel workbook ({error}); "
                         "put the owners' sheet in its place") from error
    return [[str(cell).strip() for cell in row] for row in grid.itertuples(index=False)]
