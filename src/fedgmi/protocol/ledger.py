"""What has travelled: bytes per client, round and kind, as serialised. Transports write it; nobody counts by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedgmi.protocol.step import KINDS, Kind
from fedgmi.tree import Tree

Cell = npt.NDArray[np.int64]  # [N, 2]: down, up. Entries are single numbers, which tensors take ten times as long for
LOST = "lost"


class Ledger:
    """Bytes down to and up from every client, by round and kind.

    Args:
        n_clients: How many clients there are, or may be.

    Examples:
        >>> ledger = Ledger(2)
        >>> ledger.add(1, "expert", 0, down=100, up=90)
        >>> ledger.add(1, "statistics", 1, up=5)
        >>> ledger.totals(), ledger.by_kind()["expert"], ledger.by_client().tolist()
        ((100, 95), (100, 90), [[100, 90], [0, 5]])
    """

    def __init__(self, n_clients: int) -> None:
        self.n_clients = n_clients
        self._cells: dict[tuple[int, Kind], Cell] = {}
        self._lost: dict[int, set[int]] = {}

    def add(self, round: int, kind: Kind, client: int, *, down: int = 0, up: int = 0) -> None:
        """Enter bytes of one client."""
        cell = self._cells.get((round, kind))
        if cell is None:
            cell = self._cells[round, kind] = np.zeros((self.n_clients, 2), dtype=np.int64)
        cell[client, 0] += down
        cell[client, 1] += up

    def lose(self, round: int, client: int) -> None:
        """Note that a client's reply was refused or did not come. What it holds now is not known."""
        self._lost.setdefault(round, set()).add(client)

    def lost(self, round: int) -> set[int]:
        """The clients of a round that `lose` was told of."""
        return set(self._lost.get(round, ()))

    def totals(self, round: int | None = None) -> tuple[int, int]:
        """Bytes down and up of all clients, of one round or of all."""
        return _pair(sum((cell.sum(0) for cell in self._of(round, None)), np.zeros(2, dtype=np.int64)))

    def by_kind(self, round: int | None = None) -> dict[Kind, tuple[int, int]]:
        """Bytes down and up of all clients by kind, kinds without any left out."""
        found = {kind: [cell.sum(0) for cell in self._of(round, kind)] for kind in KINDS}
        return {kind: _pair(sum(both)) for kind, both in found.items() if both}

    def by_client(self, round: int | None = None) -> Tensor:
        """Bytes down and up of every client, of one round or of all. [N, 2]"""
        return torch.from_numpy(sum(self._of(round, None), np.zeros((self.n_clients, 2), dtype=np.int64)))

    def to_tree(self) -> Tree:
        """All entries, for a checkpoint: `ROUND/KIND` → [N, 2], and `ROUND/lost` → clients."""
        cells = {f"{round}/{kind}": torch.from_numpy(cell.copy()) for (round, kind), cell in self._cells.items()}
        return cells | {f"{round}/{LOST}": torch.tensor(sorted(ids)) for round, ids in self._lost.items()}

    @classmethod
    def from_tree(cls, n_clients: int, entries: Mapping[str, Tensor]) -> Ledger:
        """The ledger that `to_tree` wrote."""
        ledger = cls(n_clients)
        for name, cell in entries.items():
            round, _, kind = name.partition("/")
            if kind == LOST:
                ledger._lost[int(round)] = set(cell.tolist())
                continue
            ledger._cells[int(round), next(known for known in KINDS if known == kind)] = cell.cpu().numpy().copy()
        return ledger

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ledger) or self._cells.keys() != other._cells.keys() or self._lost != other._lost:
            return False
        return all(np.array_equal(cell, other._cells[key]) for key, cell in self._cells.items())

    __hash__ = None  # type: ignore[assignment]

    def _of(self, round: int | None, kind: Kind | None) -> Iterator[Cell]:
        for (at, what), cell in self._cells.items():
            if (round is None or at == round) and (kind is None or what == kind):
                yield cell


def bytes_by_kind(ledger: Ledger) -> dict[str, list[int]]:
    """Bytes down and up of all clients by kind, for a record."""
    return {kind: list(both) for kind, both in ledger.by_kind().items()}


def _pair(counts: Cell) -> tuple[int, int]:
    return int(counts[0]), int(counts[1])
