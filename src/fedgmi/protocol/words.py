"""Text that somebody else chose, before it stands in a log, a table or a terminal."""

from __future__ import annotations

from fedgmi.letters import printable

MOST = 500


def one_line(text: object, most: int = MOST) -> str:
    """One line of letters that can be printed: no line of its own, no colour, nothing that moves the cursor.

    Args:
        text: Whatever was sent. What is no text is named by its type.
        most: Letters; what is longer is cut.

    Returns:
        The line. White space becomes single spaces, and what cannot be printed (control characters, lone surrogates,
        marks that turn the direction of writing) stands as Python writes it.

    Examples:
        >>> one_line("ward\\n2026 all is well"), one_line("\\x1b[31mred"), one_line({"a": 1}), one_line("abcdef", 4)
        ('ward 2026 all is well', '\\\\x1b[31mred', 'a dict, and no text', 'abc…')
    """
    if not isinstance(text, str):
        return f"a {type(text).__name__}, and no text"
    shown = printable(" ".join(text[: 4 * most].split()))
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
