"""Over which sites a site's numbers were summed: the same numbers go into no sum over other sites.

    Σ over {A, B, C}  −  Σ over {A, B}  =  C's part,   where A and B have put in the same numbers twice

Masks cannot tell this from an honest repetition. So A and B remember what they have let be summed, and with whom, in
`sums.json` in the site's folder, which is written before shares leave. It outlives the process, the run, its keys, and
versions of the rows. Sites are known by `masks.keys.Public.who`, so that no index or name of a run hides them.

- One exchange of a run is summed over one set of sites.
- Numbers that were summed once are summed over the same sites only, whatever exchange or run asks for them. Compared
  are rows of leaves (a cell's sums, a model) and leaves of one axis, in the whole numbers that are added up.
- With `same_sites` in site.toml every sum of the site is over the same sites.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from fedgmi.deploy.site.guard import Refused
from fedgmi.protocol.message import Message, flatten
from fedgmi.protocol.whole import in_two, to_whole
from fedgmi.storage import files
from fedgmi.storage.own_files import Count, OwnFile

FILE = "sums.json"
AGAIN = (
    "restore it from a backup; who removes it lets sums be taken over other sites, whose difference shows one of them"
)
Sites = tuple[str, ...]  # who they are, in ascending order


class OtherSites(Refused):
    """A sum over other sites than those that this site's numbers were summed with.

    Attributes:
        before: Those.
        summed: Those by their index in the run; -1 for sites that are not in it now.
    """

    summed: Sequence[int] = ()

    def __init__(self, what: str, before: Sites) -> None:
        super().__init__(
            f"{what} were summed over other sites: the difference of both sums would show single sites' parts"
        )
        self.before = before


@dataclass
class Summed:
    """What `sums.json` says.

    Attributes:
        sets: Sites that were summed, each set once.
        exchanges: By run and exchange, which set.
        parts: By the hash of some numbers, which set.
    """

    sets: list[Sites] = field(default_factory=list)
    exchanges: dict[str, dict[str, int]] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)


class _File(OwnFile):
    """The same, as it is written."""

    what = "what a site's sums were over"
    again = AGAIN
    sets: list[list[str]]
    exchanges: dict[str, dict[str, Count]]
    parts: dict[str, Count]

    def wrong(self) -> str:
        """Whatever was summed was summed over one of the sets."""
        named = {*self.parts.values(), *(n for some in self.exchanges.values() for n in some.values())}
        return "" if max(named, default=-1) < len(self.sets) else "a set is named that there is not"


@dataclass(frozen=True)
class Sums:
    """A site's memory of sums.

    Attributes:
        where: The site's folder.
        same_sites: Whether all sums are over the same sites.
    """

    where: Path
    same_sites: bool = False

    def admit(
        self,
        run: str,
        at: tuple[int, int],
        sites: Iterable[str],
        parts: Iterable[str],
        leaving: Callable[[bool], None] = lambda again: None,
    ) -> None:
        """Remember a sum, before anything is told that shows it.

        Args:
            run: Its run.
            at: Its exchange.
            sites: Who is in it.
            parts: Hashes of what this site has put in, as `parts_of` makes them.
            leaving: (whether it is remembered already) → it is noted, before it is remembered.

        Raises:
            Refused: Where the exchange or the numbers were summed over others, or this site sums with others alone.
            UserError: For a damaged file.
        """
        found, there, parts = self._read(), tuple(sorted(sites)), list(parts)
        exchange = f"{at[0]} {at[1]}"
        before = found.exchanges.get(run, {}).get(exchange)
        self._same(found, before, there, f"round {at[0]}, exchange {at[1]}: its numbers")
        for part in parts:
            self._same(found, found.parts.get(part), there, f"round {at[0]}, exchange {at[1]}: the same numbers")
        if self.same_sites and found.sets and found.sets != [there]:
            raise OtherSites("same_sites is set in site.toml, and this site's numbers", found.sets[0])
        if there not in found.sets:
            found.sets.append(there)
        n = found.sets.index(there)
        again = before == n and found.parts.keys() >= set(parts)
        leaving(again)
        if again:
            return
        found.exchanges.setdefault(run, {})[exchange] = n
        found.parts |= dict.fromkeys(parts, n)
        files.write_json(self.where / FILE, vars(found))

    def _same(self, found: Summed, before: int | None, there: Sites, what: str) -> None:
        if before is not None and found.sets[before] != there:
            raise OtherSites(what, found.sets[before])

    def _read(self) -> Summed:
        path = self.where / FILE
        if not path.exists():
            return Summed()
        found = _File.read(path)
        return Summed([tuple(one) for one in found.sets], found.exchanges, found.parts)


def parts_of(message: Message, n_clients: int) -> list[str]:
    """Hashes of the numbers of a message, part by part.

    A part is a row of a leaf with two axes or more, or a leaf with one. Parts that are one number again and again, but
    for zeros, are left out: a count of rows is the same in every round, and is told singly anyway.

    Args:
        message: A client's.
        n_clients: How many add up.

    Returns:
        The hashes, hex.

    Examples:
        >>> import torch
        >>> one, other = (Message(sums={"x": torch.tensor([[1.0, 2.0], [3.0, n]])}) for n in (4.0, 5.0))
        >>> len(set(parts_of(one, 2)) & set(parts_of(other, 2)))
        1
    """
    return [part for name, leaf in sorted(flatten(message).items()) for part in _parts(name, leaf, n_clients)]


def _parts(name: str, leaf: Tensor, n_clients: int) -> Iterator[str]:
    if leaf.dim() == 0:
        return
    whole = to_whole(name, leaf, n_clients)
    if in_two(name, str(leaf.dtype).removeprefix("torch.")):
        whole = whole.movedim(0, -1)
    each = whole.shape[leaf.dim() :].numel()  # whole numbers that one number takes
    for row in [whole] if leaf.dim() == 1 else whole:
        numbers = row.reshape(-1, each)
        if len(numbers[(numbers != 0).any(1)].unique(dim=0)) > 1:
            data = name.encode() + numbers.contiguous().numpy().tobytes()
            yield hashlib.blake2b(data, digest_size=8).hexdigest()
