"""CSV files of another encoding, and with lines that do not fit the header: told by line, and never misread."""

from __future__ import annotations

import pytest

from fedgmi.data.sources.tables import column_values, open_splits
from fedgmi.errors import DataError
from fedgmi.settings.run import DataSettings

HEADER, ROWS = "age,ward,ill\n", ["30,Süd,0\n", "40,Ost,1\n", "50,Süd,1\n"]
TEXT = HEADER + "".join(ROWS)


def opened(tmp_path, content: str | bytes):
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return open_splits(DataSettings(path=str(path), test_split=None), str(tmp_path / "cache"))["train"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (TEXT.encode("cp1252"), r"rows.csv: line 2 is not UTF-8 \(byte 0xfc\).*save it as UTF-8.*iconv -f CP1252"),
        (TEXT.encode("utf-16"), r"rows.csv: it is UTF-16.*iconv -f UTF-16"),
        (TEXT.encode("utf-16-le"), "rows.csv: it is UTF-16"),
        (TEXT + "60,Ost,1,9\n", "rows.csv: line 5 has 4 cells, the header 3[.]"),
        (TEXT + "60,Ost\n", "rows.csv: line 5 has 2 cells, the header 3[.]"),
        (TEXT + "\n60\n", "rows.csv: line 6 has 1 cell, the header 3[.]"),
        (HEADER + "".join(f"{row.strip()},\n" for row in ROWS), r"line 2 has 4 cells, the header 3 \(3 such lines\)"),
        (HEADER + '30,"Süd\n' + "".join(ROWS), "line 2 has 2 cells.*what is opened in line 2 ends in line 5"),
        (HEADER + '30,"' + "x" * 200_000, "line 2 cannot be read.*a quotation mark that is not closed"),
    ],
)
def test_the_line_of_the_file_is_named(tmp_path, capfd, content, what):
    with pytest.raises(DataError, match=what):
        opened(tmp_path, content)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        "\ufeff" + TEXT,
        "\n" + TEXT + "\n\n",
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("Ost", '"O\nst"'),
        TEXT[:-1],
    ],
)
def test_what_fits_is_read(tmp_path, content):
    table = opened(tmp_path, content)
    assert column_values(table, "age").tolist() == [30, 40, 50]
    assert column_values(table, "ill").tolist() == [0, 1, 1]


def test_the_reader_of_json_says_nothing_before_the_error(tmp_path, capfd):
    path = tmp_path / "rows.json"
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(DataError, match="cannot be read"):
        open_splits(DataSettings(path=str(path), test_split=None), str(tmp_path / "cache"))
    assert capfd.readouterr() == ("", "")
