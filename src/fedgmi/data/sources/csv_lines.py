"""CSV files that are not what they seem: not UTF-8, or with lines of more or fewer cells than the header.

Readers of CSV fill lines that are too short, and take lines that are all too long by one for rows with a name of their
own in front, so that each value stands below the wrong name. Both are refused.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Sequence
from pathlib import Path

from fedgmi.errors import DataError

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
HEAD = 1024
"""Bytes that are looked at for zeros, of which UTF-16 is full and CSV is not."""


def check_encoding(file: Path) -> None:
    """Refuse what is not UTF-8.

    Args:
        file: A CSV file.

    Raises:
        DataError: It names the first line that is another encoding, and how to convert the file.
    """
    with file.open("rb") as lines:
        head = lines.read(HEAD)
        if head.startswith(UTF_16) or b"\0" in head:
            raise DataError("it is UTF-16, not UTF-8", where=str(file), fix=_as_utf_8("UTF-16"))
        lines.seek(0)
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                what = f"line {number} is not UTF-8 (byte 0x{line[error.start]:02x}); perhaps the file is Windows-1252"
                raise DataError(what, where=str(file), fix=_as_utf_8("CP1252")) from None


def check_lengths(file: Path, separator: str, header: Sequence[str]) -> None:
    """Refuse lines of another number of cells than the header. Empty lines are left out.

    Args:
        file: A CSV file in UTF-8.
        separator: Between cells.
        header: The names of the columns.

    Raises:
        DataError: It names the first such line of the file, from 1, and how many there are.
    """
    wrong: list[tuple[int, int, int]] = []
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader, begins = csv.reader(lines, delimiter=separator), 1
        try:
            for cells in reader:
                if cells and len(cells) != len(header):
                    wrong.append((begins, reader.line_num, len(cells)))
                begins = reader.line_num + 1
        except csv.Error as error:
            fix = "look for a quotation mark that is not closed"
            raise DataError(f"line {begins} cannot be read ({error})", where=str(file), fix=fix) from error
    if not wrong:
        return
    first, last, n = wrong[0]
    more = f" ({len(wrong)} such lines)" if len(wrong) > 1 else ""
    told = "1 cell" if n == 1 else f"{n} cells"
    fix = "look for a separator too many or too few, and for texts with separators, which stand in quotation marks"
    if last > first:
        fix = f"look for a quotation mark that is not closed: what is opened in line {first} ends in line {last}"
    raise DataError(f"line {first} has {told}, the header {len(header)}{more}", where=str(file), fix=fix)


def _as_utf_8(encoding: str) -> str:
    return f"save it as UTF-8 (Excel: “CSV UTF-8”), or convert it: iconv -f {encoding} -t UTF-8 OLD.csv > NEW.csv"
