"""Which letters show, and which are orders to a terminal, ends of lines, or nothing that can be seen."""

from __future__ import annotations

import unicodedata

IGNORED = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0000, 0xE0FFF),
)  # fmt: skip
"""Letters of which nothing is seen, though they count as printable: Unicode's Default_Ignorable_Code_Point without its
format characters, and the empty pattern of Braille. [first, last]"""


ALIKE = str.maketrans("авеѕіјкмнорсԛтуԝхһԁ" + "αβεζηικμνορτυχω", "abesijkmhopcqtywxhd" + "abezhikmvoptyxw")
"""Cyrillic and Greek letters that look like a Latin one, small or as capitals (Unicode TS 39, the commonest)."""


def shows(letter: str) -> bool:
    """Whether a letter can be seen, or is a space: no control character, no lone surrogate, no mark that turns the
    direction of writing, no end of a line.

    Examples:
        >>> shows("é"), shows(" "), shows("\\u00a0"), shows("\\x1b"), shows("\\u202e"), shows("\\n")
        (True, True, True, False, False, False)
    """
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def is_name(text: str) -> bool:
    """Whether a text is a name that reads as it is written: letters that show, single spaces between words alone, and
    no letter that Unicode holds to be another one in other clothes (NFKC: no-break spaces, full width, ligatures).

    Examples:
        >>> [is_name(text) for text in ("Ward 3", "Süd", " Ward 3", "Ward  3", "Ward\\u00a03", "\\uff37ard 3", "")]
        [True, True, False, False, False, False, False]
    """
    plain = unicodedata.normalize("NFKC", text)
    seen = all(shows(letter) and not _is_ignored(letter) for letter in text)
    return bool(text) and text == plain == " ".join(text.split()) and seen


def _is_ignored(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in IGNORED)


def reads_like(one: str, other: str) -> bool:
    """Whether two names are the same but for capital letters, and for Cyrillic and Greek ones that look like Latin.

    Examples:
        >>> reads_like("Ward 3", "ward 3"), reads_like("Ward 3", "W\u0430rd 3"), reads_like("Ward 3", "Ward 4")
        (True, True, False)
    """
    return _as_seen(one) == _as_seen(other)


def _as_seen(name: str) -> str:
    return name.casefold().translate(ALIKE)


def printable(text: str) -> str:
    """The same text, in which a letter that does not show stands as Python writes it; ends of lines stay.

    Examples:
        >>> printable("red: \\x1b[31m")
        'red: \\\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(letter if shows(letter) or letter == "\n" else ascii(letter)[1:-1] for letter in text)
