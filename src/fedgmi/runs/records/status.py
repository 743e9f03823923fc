"""`status.json`: where a deployment stands, written by its coordinator after every exchange."""

from __future__ import annotations

from typing import Literal

from fedgmi.runs.records.base import Part, Written
from fedgmi.settings.base import PositiveFloat


class SiteStatus(Part):
    """One site.

    Attributes:
        alive: Whether it takes part.
        last_round: In which it answered last; -1 where there was none.
        last_seen: When it answered last, in unix seconds; 0 where it never did.
        rows: Of training.
        bytes_down: To it so far.
        bytes_up: From it so far.
        absent: Rounds in which it was missing.
        note: In words.
        missing: Whether it is absent in the present round though it is connected; `note` says why.
    """

    alive: bool
    last_round: int
    last_seen: float
    rows: int
    bytes_down: int
    bytes_up: int
    absent: int
    note: str = ""
    missing: bool = False


class Status(Written):
    """A whole deployment.

    Attributes:
        name: The federation's.
        round: The present one; 0 is the preparation.
        rounds: R.
        state: What it is at.
        updated: When this was written, in unix seconds.
        deadline_s: An exchange takes no longer, in seconds.
        note: What there is to know of the run, in words.
        turned_away: Nodes that are connected and not let in, each with why.
        expected: How many sites there are by federation.toml; 0: an older fedgmi did not say.
        waiting_since: Since when sites are waited for, in unix seconds; 0 where they are not.
        sites: By name.
    """

    file = "status.json"
    what = "the status of a deployment"
    known_by = frozenset(("name", "state", "updated", "sites"))
    again = "the coordinator writes it anew after its next exchange; read it with the fedgmi that runs there"

    name: str
    round: int
    rounds: int
    state: Literal["waiting", "running", "finished", "failed"]
    updated: float
    deadline_s: PositiveFloat = 600.0
    note: str = ""
    turned_away: tuple[str, ...] = ()
    expected: int = 0
    waiting_since: float = 0.0
    sites: dict[str, SiteStatus]

    @property
    def n_sites(self) -> int:
        """How many there are to be."""
        return max(self.expected, len(self.sites))
