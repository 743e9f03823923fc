"""How numbers and tables are written, for the terminal and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box, filesize
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from fedgmi.protocol.words import one_line


class _Bare(Table):
    """Texts in cells are texts of one line: a client named [/] is no markup, and no name begins a row."""

    def add_row(self, *cells: RenderableType | None, **more: Any) -> None:
        """As rich's; a cell that is to have a colour, or lines, is a `Text`."""
        super().add_row(*(Text(one_line(cell)) if isinstance(cell, str) else cell for cell in cells), **more)


def bare_table(title: str, columns: Sequence[str], *, whole: bool = False) -> Table:
    """An empty table for the terminal, without a frame.

    Args:
        title: Above the table.
        columns: Their names. The first column is text, the others are numbers.
        whole: Whether the first column is never broken, and the others give way.

    Returns:
        The table, to which rows can be added.
    """
    # Without a frame the tables of a default run fit into 80 columns.
    look: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
    table = _Bare(title=Text(one_line(title)), title_justify="left", title_style="bold", caption_justify="left", **look)
    for column, name in enumerate(columns):
        word = max(map(len, name.split()), default=0)  # which a narrow terminal would break
        kept = whole and column == 0
        table.add_column(
            Text(name),
            justify="right" if column else "left",
            overflow="fold",
            min_width=0 if whole else word,
            no_wrap=kept,
        )
    return table


def markdown_table(head: Sequence[str], lines: Iterable[Iterable[Any]]) -> str:
    """A table in Markdown.

    Args:
        head: Names of the columns.
        lines: Rows of cells.

    Returns:
        A line for the head, one for the rule, one for each row.

    >>> print(markdown_table(["method", "accuracy"], [["fedgmi", 0.9]]))
    | method | accuracy |
    | --- | --- |
    | fedgmi | 0.9 |
    """
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *lines))


def short_share(share: float) -> str:
    """A share without the leading zero.

    >>> short_share(0.951), short_share(0.05), short_share(0.999)
    ('.95', '.05', '1.0')
    """
    return "1.0" if share >= 0.995 else f"{share:.2f}".removeprefix("0")


def short_shares(proportions: Sequence[float]) -> str:
    """Shares in one cell.

    >>> short_shares([0.951, 0.05, 1.0])
    '.95 .05 1.0'
    """
    return " ".join(map(short_share, proportions))


def number(value: Any, digits: int) -> str:
    """A number, or a dash where there is none.

    Args:
        value: A number, NaN or None.
        digits: After the point.

    >>> number(0.1234, 2), number(None, 2)
    ('0.12', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def percent(value: Any) -> str:
    """A share in percent, without the sign.

    >>> percent(0.912), percent(None)
    ('91.2', '–')
    """
    return number(None if value is None else 100 * value, 1)


def size(value: float | None) -> str:
    """Bytes in the largest unit that leaves at least one. A dash where nobody knows.

    >>> size(120), size(1_500), size(2_340_000), size(None)
    ('120 B', '1.5 kB', '2.3 MB', '–')
    """
    if value is None:
        return "–"
    return f"{value:.0f} B" if value < 1000 else filesize.decimal(round(value))


def plural(n: int, noun: str) -> str:
    """A count and its noun.

    >>> plural(1, "client"), plural(2_000, "row")
    ('1 client', '2,000 rows')
    """
    return f"{n:,} {noun}{'s' * (n != 1)}"


def listed(words: Sequence[str], most: int = 6) -> str:
    """Words as people list them.

    Args:
        words: What is listed.
        most: How many are named. The others are counted.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c", "d"], most=2)
    ('a, b and c', 'a, b and 2 more')
    """
    if len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def rows_show(n_components: int) -> str:
    """What it means that rows decide.

    Args:
        n_components: K.

    >>> rows_show(2)
    'Rows show just 2 clusters, and clients differ by these alone: they are the components, however mixed clients are.'
    """
    alone = f"Rows show just {n_components} clusters, and clients differ by these alone"
    return f"{alone}: they are the components, however mixed clients are."
