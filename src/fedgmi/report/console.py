"""Where words reach a terminal: names of sites, classes and columns are somebody else's, and stay letters there."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Literal

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from fedgmi.letters import printable
from fedgmi.protocol.words import one_line

LONGEST = 10_000
"""Letters of a line."""


class OwnConsole(Console):
    """A console on which text is text: brackets are no markup, and no letter gives the terminal an order.

    What is to have a colour is a `Text`.
    """

    def __init__(self, **settings: Any) -> None:
        """As rich's, with `markup` and `emoji` off; arguments are those."""
        super().__init__(**({"markup": False, "emoji": False} | settings))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is drawn, without letters that cannot be printed; orders of rich's own stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def words(text: str, style: str = "") -> Text:
    """A text of one line, whatever names stand in it.

    Args:
        text: What is longer than a line ends as one.
        style: As rich has them.
    """
    return Text(one_line(text, LONGEST), style=style)


def tell(console: Console, kind: Literal["error", "warning"], what: str) -> None:
    """Show what went wrong. Lines after the first are indented: none passes for another message.

    Args:
        console: Where to.
        kind: What it is.
        what: In words.
    """
    bold, plain = {"error": ("bold red", "red"), "warning": ("bold yellow", "")}[kind]
    console.print(Text.assemble((f"{kind}: ", bold), (what.replace("\n", "\n  "), plain)), soft_wrap=True)


def say(told: str, *, err: bool = False) -> None:
    """Show one line.

    Args:
        told: What is longer than a line ends as one.
        err: Whether it goes to the standard error.
    """
    print(one_line(told, LONGEST), file=sys.stderr if err else None, flush=True)


def hand_out(text: str) -> None:
    """Write data to the standard output: as they are into a file or a pipe, and without orders to a terminal.

    Args:
        text: Lines, each with its end.
    """
    print(printable(text) if sys.stdout.isatty() else text, end="", flush=True)
