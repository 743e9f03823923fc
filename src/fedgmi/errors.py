"""What fedgmi raises when the user, the data or a file is at fault."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable


class FedgmiError(Exception):
    """Any failure that fedgmi explains itself. The command line prints it without a traceback."""


class UserError(FedgmiError):
    """A mistake that the user can mend.

    Attributes:
        what: What was found.
        where: The setting, file, client or column that it was found in; "" where there is nothing to name.
        fix: The likely fix.

    Examples:
        >>> print(UserError("rows_per_client is 0", where="scenario.rows_per_client", fix="set it to 1 or more"))
        scenario.rows_per_client: rows_per_client is 0. Likely fix: set it to 1 or more.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        """Put the message together.

        Args:
            what: What was found, without a full stop.
            where: Where it was found.
            fix: The likely fix.
        """
        self.what, self.where, self.fix = what, where, fix
        text = f"{where}: {what}" if where else what
        text = sentence(text)
        super().__init__(f"{text} Likely fix: {sentence(fix)}" if fix else text)

    def advise(self, fix: str) -> None:
        """Name another fix: whoever catches the error knows by what command it was met.

        Args:
            fix: The likely fix.

        Examples:
            >>> error = StorageError("it is full", where="results", fix="make room")
            >>> error.advise("make room, and begin again")
            >>> print(error)
            results: it is full. Likely fix: make room, and begin again.
        """
        UserError.__init__(self, self.what, where=self.where, fix=fix)


class DataError(UserError, ValueError):
    """The data cannot be used as they are (NaN, mixed sizes, a missing column, a client without rows).

    It is a ValueError too, which is what scikit-learn's users expect for data that cannot be used. Code that catches
    ValueErrors of other libraries has to let it pass.
    """


class ConfigError(UserError, ValueError):
    """A setting is unknown, has the wrong type, or contradicts another one. It is a ValueError too."""


class CheckpointError(UserError):
    """A checkpoint is truncated, foreign, or belongs to another configuration."""


class DivergedError(UserError):
    """Training ran away: a state or a message holds a number that is not finite."""


class RequestError(UserError):
    """What is wrong with a request or with who sends it, and with nothing else: the sender may read all of it."""


class LimitError(UserError):
    """A limit that a site has set for itself does not allow it."""


class StorageError(UserError):
    """A file or folder of one's own cannot be written: the disk is full, or somebody else owns it."""


class FedgmiWarning(UserWarning):
    """Something to know before the results are relied on. Nothing stops for it."""


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends with a mark already.

    Examples:
        >>> sentence("did you mean 3?"), sentence("known: 3, 4")
        ('did you mean 3?', 'known: 3, 4.')
    """
    return text if text.endswith((".", "?", "!")) else f"{text}."


ROWS = "Rows are counted from 0: in a CSV file with a header, row 0 is line 2."
_ROW = re.compile(r"\brow \d")


def counted(text: str) -> str:
    """The text, and how rows are counted where it names one by its number.

    Args:
        text: What a command, or a log, is about to say.

    Examples:
        >>> counted("it is missing"), counted("the first at row 3.")
        ('it is missing', 'the first at row 3. Rows are counted from 0: in a CSV file with a header, row 0 is line 2.')
    """
    if not _ROW.search(text) or ROWS in text:
        return text
    return f"{text}\n{ROWS}" if "\n" in text else f"{sentence(text)} {ROWS}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like a given one, whatever its case.

    Args:
        name: What was written.
        known: The names that there are.

    Returns:
        One of `known`, or "" when none of them is at all like `name`.

    Examples:
        >>> nearest("rotaton", ["rotation", "labels"])
        'rotation'
    """
    return next(iter(_alike(name, list(known))), "")


ALIKE = 0.6
"""So alike two names are, by difflib's ratio, where one may be a slip of the other."""


def _alike(name: str, known: list[str]) -> dict[str, int]:
    """Names that are at all like a given one, and by how many slips they differ; the most like first."""
    lower = {option.lower(): option for option in reversed(known)}
    close = difflib.get_close_matches(name.lower(), lower, n=10, cutoff=ALIKE)
    found = {lower[option]: slips(name.lower(), option) for option in close}
    return dict(sorted(found.items(), key=lambda pair: (pair[1], known.index(pair[0]))))


def slips(written: str, meant: str) -> int:
    """How many letters were left out, added, exchanged, or swapped with their neighbour (Damerau 1964).

    Examples:
        >>> slips("fedgimm", "fedgmi"), slips("fedgimm", "fedgmm"), slips("alhpa", "alpha")
        (2, 1, 1)
    """
    rows = [list(range(len(meant) + 1))]
    for i, letter in enumerate(written, 1):
        row = [i]
        for j, other in enumerate(meant, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and (letter, written[i - 2]) == (meant[j - 2], other):
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def too_many_components(n_components: int, n_clients: float, *, where: str, fix: str) -> ConfigError:
    """The error for more components than there are clients to tell them apart.

    Args:
        n_components: K, as it was asked for.
        n_clients: How many clients there are.
        where: The setting that K came from.
        fix: The likely fix.

    Returns:
        The error, to be raised.

    Examples:
        >>> print(too_many_components(3, 1, where="method.n_components", fix="ask for 1"))
        method.n_components: 3 components cannot be told apart from 1 client. Likely fix: ask for 1.
    """
    return ConfigError(_untold(n_components, n_clients), where=where, fix=fix)


def made_up(n_components: int, n_clients: int, whose: str = "client") -> str:
    """What is to be known of a run that has more components than clients all the same: a deployment may.

    Args:
        n_components: K.
        n_clients: How many clients, or sites, there are.
        whose: "client" or "site".

    Returns:
        A sentence; "" where there are enough.

    Examples:
        >>> made_up(5, 4)
        '5 components cannot be told apart from 4 clients: their proportions are made up.'
        >>> made_up(4, 4)
        ''
    """
    untold = _untold(n_components, n_clients, whose)
    return f"{untold}: their proportions are made up." if n_components > n_clients else ""


def _untold(n_components: int, n_clients: float, whose: str = "client") -> str:
    return f"{n_components} components cannot be told apart from {n_clients} {whose}{'s' * (n_clients != 1)}"


def unknown(kind: str, name: str, known: Iterable[str], where: str) -> ConfigError:
    """The error for a name that a table does not hold.

    Args:
        kind: What is named, such as "scenario".
        name: What was written.
        known: The names that there are, the default first where there is one.
        where: The setting that the name came from.

    Returns:
        The error, to be raised. It names the nearest known name, and the default where that is nearly as near.

    Examples:
        >>> print(unknown("scenario", "rotaton", ["rotation", "labels"], "scenario.name"))
        scenario.name: there is no scenario "rotaton". Likely fix: did you mean "rotation"? Known: labels, rotation.
    """
    options = list(known)
    alike = _alike(name, options)
    best = next(iter(alike), "")
    default = [option for option in options[:1] if best and alike.get(option, math.inf) <= alike[best] + 1]
    guesses = list(dict.fromkeys(filter(None, (*default, best))))
    listed = f"{'Known' if guesses else 'use one of these'}: {', '.join(sorted(options))}"
    guess = " or ".join(f'"{option}"' for option in guesses)
    fix = f"did you mean {guess}? {listed}" if guess else listed
    return ConfigError(f'there is no {kind} "{name}"', where=where, fix=fix)
