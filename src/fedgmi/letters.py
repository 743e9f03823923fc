"""Which letters show, and which are orders to a terminal, ends of lines, or nothing that can be seen."""

from __future__ import annotations

import unicodedata


def shows(letter: str) -> bool:
    """Whether a letter can be seen, or is a space: no control character, no lone surrogate, no mark that turns the
    direction of writing, no end of a line.

    Examples:
        >>> shows("é"), shows(" "), shows("\\u00a0"), shows("\\x1b"), shows("\\u202e"), shows("\\n")
        (True, True, True, False, False, False)
    """
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def printable(text: str) -> str:
    """The same text, in which a letter that does not show stands as Python writes it; ends of lines stay.

    Examples:
        >>> printable("red: \\x1b[31m")
        'red: \\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(letter if shows(letter) or letter == "\n" else ascii(letter)[1:-1] for letter in text)
