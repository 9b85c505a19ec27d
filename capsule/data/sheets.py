"""The owners' annotation sheets: found in any edition, read in any spelling, checked row by row."""

import codecs
import csv
import itertools
import os
import re
import zipfile
from pathlib import Path

import pandas as pd

from capsule.data.databases import BLOCKS, NO_APEX, squeeze
from capsule.data.folders import named_folders
from common.errors import InputError
from common.names import plain_name

WORKBOOKS = (".xlsx", ".xlsm", ".xls")
SUFFIXES = (*WORKBOOKS, ".csv")
HEADER_ROWS = 40        # the header is looked for in this many rows (SAMM's stands on row 14)
# Of a sheet or list; the owners' have under 300 rows and 20 columns. A stray cell in the last of Excel's
# million rows, or a zip far larger inside, could fill the memory. Columns further right are not looked at.
MAX_ROWS, MAX_COLUMNS, MAX_BYTES = 5000, 100, 2**26
# Our column → the names that it has in one sheet or another.
COLUMNS = {"data": ("data",), "subject": ("Subject",), "clip": ("Filename", "clip"),
           "label": ("label", "y_true"), "onset_frame": ("OnsetFrame", "OnsetF", "onset"),
           "apex_frame": ("ApexFrame", "ApexF", "apex"), "offset_frame": ("OffsetFrame", "OffsetF", "offset"),
           "emotion": ("Estimated Emotion", "Emotion"), "action units": ("Action Units",)}
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
FRAMES = ("onset_frame", "apex_frame", "offset_frame")
# What ends a sheet's name, but not a copy's ("v2 (1)"): a version, a date or nothing.
EDITION = r"[ _.-]*(?:\(?v\.?([0-9]{1,2}(?:\.[0-9]+)?)\)?|([0-9]{4}[_.-]?(?:[0-9]{2}[_.-]?){0,2})|)"
REPLACE = "put a whole file in its place, .xlsx or .csv"


def find_sheet(data, root):
    """The path of database `data`'s sheet: in `root`, its `annotations/`, or the database's folder.

    Of several in one place the newest edition, by name, is taken. The synthetic database's carries CASME II's
    file name, so it is looked for in its own folder only. Returns None when there is none.
    """
    root, own = Path(root), [path for paths in named_folders(data, root) for path in paths]
    begins = re.sub(r"(v?[0-9]+)$", "", squeeze(BLOCKS[data].sheet))        # without the edition
    places = own if data == "synthetic" else [root, root / "annotations", root / "Annotations", *own]
    for place in places:
        _, _, names = next(os.walk(place), ("", [], []))
        found = [place / name for name in names
                 if Path(name).suffix.lower() in SUFFIXES and squeeze(Path(name).stem).startswith(begins)
                 and not name.startswith((".", "~")) and (place / name).is_file()]
        if found:
            return max(found, key=lambda path: _edition(path, begins))
    return None


def _edition(path, begins):
    """Sort key, the best last: readable before .xls; editions before `_old` or `(1)`; the newest; .xlsx."""
    suffix = path.suffix.lower()
    edition = re.fullmatch(r"[\W_]*".join(begins) + EDITION, path.stem.strip().casefold())
    number = -1 if edition is None else float(edition[1] or re.sub(r"\D", "", edition[2] or "0"))
    return suffix != ".xls", number, -SUFFIXES.index(suffix), path.name


def owners_sheet(data, root):
    """As `find_sheet`. Raises: InputError when there is none."""
    path = find_sheet(data, root)
    if path is None:
        raise InputError(f"{root}: no annotation sheet {BLOCKS[data].sheet}.xlsx (.csv, or another edition) "
                         f"there, in annotations/ or in {data}'s folder; give the folder that holds it with "
                         "--data-root, or get it as data/README.md says")
    return path


def read_sheet(data, root):
    """The clips of database `data` as its owners coded them, CASME II's one missing apex filled in, and
    SMIC's apexes as smic_processing.py spotted them.

    Returns: (DataFrame, keys of the clips with a second, identical row, names of the files read, the sheet's
    first). Columns: subject (as SPEC section 1 writes it), clip, `FRAMES` (int; -1 where there is no apex),
    emotion (lower case); the index is the line in the sheet.
    Raises: InputError, naming sheet and row or column, when the sheet is not there or not usable.
    """
    path, block = owners_sheet(data, root), BLOCKS[data]
    table = read_columns(path, ("subject", "clip", *FRAMES, "emotion"), block.tab,
                         optional=() if block.codes_apex else ("apex_frame",))
    table["subject"] = subject_names(path, table["subject"], block.subject)
    table["emotion"] = [" ".join(text.casefold().split()) for text in table["emotion"]]
    coded = table.get("apex_frame", pd.Series("", table.index))
    table["apex_frame"] = coded.mask(coded.isin(["", "/", "-"]), -1)
    table, repeated = checked(path, table, FRAMES)
    no_apex = clip_pairs(table).isin(NO_APEX) & (table["apex_frame"] < 0)
    table = table.assign(apex_frame=table["apex_frame"].mask(no_apex, table["offset_frame"]))
    if data == "smic" and (table["apex_frame"] < 0).any():
        given = [folder / "smic_apex_frames.csv" for folder in (path.parent, Path(root),
                                                                Path(root, "annotations"))]
        for spotted in (Path(root, "annotations", "smic_apex.csv"), *given):
            if spotted.is_file():
                try:
                    return _with_spotted(table, spotted, block.subject), repeated, [str(path), str(spotted)]
                except InputError as error:
                    raise InputError(f"{error}; or remove the file and run smic_processing.py") from error
    return table, repeated, [str(path)]


def _with_spotted(table, path, form):
    """`table` with the apexes of the table at `path` where it has none. form: of `subject_names`."""
    spotted = read_columns(path, ("subject", "clip", "apex_frame"))
    spotted["subject"] = subject_names(path, spotted["subject"], form)
    spotted, _ = checked(path, spotted, ("apex_frame",))
    apexes = dict(zip(clip_pairs(spotted), spotted["apex_frame"], strict=True))
    apexes = clip_pairs(table).map(apexes).fillna(-1).astype("int64")
    known = apexes >= 0
    inside = (known & (table["onset_frame"] <= apexes) & (apexes <= table["offset_frame"])).sum()
    if 2 * inside < known.sum():
        raise InputError(f"{path}: only {inside} of its {known.sum()} apexes lie between the sheet's onset "
                         "and offset, so they are of other recordings; give the sheet of HS")
    return table.assign(apex_frame=table["apex_frame"].mask(table["apex_frame"] < 0, apexes))


def clip_pairs(table):
    """Series of (subject, clip in lower case)."""
    return pd.Series(list(zip(table["subject"], table["clip"].str.casefold(), strict=True)), table.index)


def checked(path, table, numbers):
    """(`table` with plain clip names, whole `numbers` and each clip once; keys of the rows left out).

    Raises: InputError naming the row of a cell that is not so, or two rows of one clip that differ.
    """
    for row, clip in table["clip"].items():
        plain_name(clip, f"{path} row {row}: correct the Filename in the sheet")
    table = table.assign(**{name: whole_numbers(path, table, name) for name in numbers})
    folded = table.assign(clip=table["clip"].str.casefold())
    again = folded.duplicated()
    key = [name for name in ("data", "subject", "clip") if name in table]
    for _, rows in folded[~again].groupby(key):
        if len(rows) > 1:
            clip = table.loc[rows.index[0]]
            raise InputError(f"{path} rows {rows.index[0]} and {rows.index[1]}: {clip['subject']} "
                             f"{clip['clip']} is there twice with different values; remove the wrong row "
                             "(of lists, give that of the apexes, not of their neighbours)")
    return table[~again], ["/".join(row) for row in table[again][key].itertuples(index=False)]


def subject_names(path, texts, form):
    """A column of subjects → their names in the form of their database: 1, "01" or "sub01" → "sub01"."""
    numbers = texts.str.extract(r"^[A-Za-z_ ]*?([0-9]{1,6})(?:\.0*)?$")[0]
    for row, text in texts[numbers.isna()].items():
        raise InputError(f"{path} row {row}: Subject is {text!r}, not a number; correct it in the sheet")
    return [form.format(int(number)) for number in numbers]


def whole_numbers(path, table, name):
    """A column of text, "46" or "46.0", as int64; -1 stays. Raises: InputError naming the row."""
    texts = table[name].astype(str)
    wrong = ~(texts.str.fullmatch(r"[0-9]{1,15}(\.0*)?") | (table[name] == -1))
    for row, text in texts[wrong].items():
        raise InputError(f"{path} row {row} ({table['clip'][row]}): the {name.removesuffix('_frame')} is "
                         f"{text!r}, not a whole number; correct it in the sheet")
    return texts.str.replace(r"\.0*$", "", regex=True).astype("int64")


def read_columns(path, wanted, tab="", optional=()):
    """The `wanted` columns (keys of COLUMNS, or names as they are) of a sheet or CSV file as stripped text.

    The header is the row that fits best; case, spaces, underscores in its names do not matter. Rows without
    any wanted cell are left out. The index is the line in the sheet. An `optional` column may be missing.
    Raises: InputError naming the sheet and the column that is missing or there twice with different values.
    """
    grid = _read_workbook(path, tab) if path.suffix.lower() in WORKBOOKS else _read_csv(path)
    if grid.empty:
        raise InputError(f"{path}: the file is empty; {REPLACE}")
    if len(grid) > MAX_ROWS:
        raise InputError(f"{path}: more than {MAX_ROWS} rows; remove those that are no clips")
    grid = grid.fillna("").astype(str).map(str.strip)
    called = {name: COLUMNS.get(name, (name,)) for name in wanted}
    accepted = {name: [squeeze(text) for text in texts] for name, texts in called.items()}
    head = grid.head(HEADER_ROWS).map(squeeze)
    fit = head.isin([text for texts in accepted.values() for text in texts]).sum(axis=1)
    top = int(fit.to_numpy().argmax())
    table = {}
    for name, texts in accepted.items():
        shown = called[name][0]
        named = [head.columns[head.iloc[top] == text] for text in texts]
        places = [place for columns in named for place in columns]
        if len(places) == 0 and name not in optional:
            has = ", ".join(filter(None, grid.iloc[top]))[:200] or "nothing"
            raise InputError(f"{path}: no column {shown!r} (row {top + 1} has: {has}); use the owners' sheet "
                             "as shipped, or rename the column")
        below = grid.iloc[top + 1:][list(places)]
        if (below.nunique(axis=1) > 1).any():
            both = " or ".join(repr(text) for text, columns in zip(called[name], named, strict=True)
                               if len(columns))
            raise InputError(f"{path}: {len(places)} columns are called {both} and differ; "
                             "remove the wrong one")
        if len(places):
            table[name] = below[places[0]]
    table = pd.DataFrame(table)
    table.index += 1            # the grid counts from 0, a person from 1
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise InputError(f"{path}: the file has a header and no clips; {REPLACE}")
    return table


def _read_csv(path):
    """A CSV file (comma, semicolon or tab; rows of any length; UTF-8, or UTF-16 as Excel's "Unicode text") →
    DataFrame of text."""
    try:
        _check_size(path.stat().st_size)
        data = path.read_bytes()
        text = data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig", errors="replace")
        for strict in (True, False):
            rows = csv.reader(text.splitlines(), delimiter=max(",;\t", key=text.count), skipinitialspace=True,
                              strict=strict)
            try:
                return pd.DataFrame([row[:MAX_COLUMNS] for row in itertools.islice(rows, MAX_ROWS + 1)])
            except csv.Error as error:      # odd quotation marks may pass, but an open one swallows all rows
                if not strict or "end of data" in str(error):
                    raise
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}); save the sheet anew") from error


def _read_workbook(path, tab):
    """One tab of an Excel workbook → DataFrame of text: the one called `tab` or like it (SMIC-HS), or the
    only one; the first where `tab` is ""."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(sum(info.file_size for info in archive.infolist()))
        with pd.ExcelFile(path, engine="openpyxl") as book:
            names = book.sheet_names
            called = [name for name in names if squeeze(name) == squeeze(tab)] or [
                name for name in names if squeeze(tab) in squeeze(name)]
            if len(called) != 1 and tab and len(names) > 1:
                raise InputError(f"{path}: no tab is called {tab}, there are {', '.join(names)}; rename the "
                                 "one that holds its clips")
            return book.parse((called or names)[0], header=None, dtype=str, nrows=MAX_ROWS + 1,
                              usecols=lambda column: column < MAX_COLUMNS)
    except InputError:
        raise
    except Exception as error:      # openpyxl lets many kinds of error through from a damaged file
        raise InputError(f"{path}: cannot be read as an Excel workbook ({error}); {REPLACE}") from error


def _check_size(n_bytes):
    if n_bytes > MAX_BYTES:
        raise ValueError(f"{n_bytes:,} bytes, far more than a sheet has")
