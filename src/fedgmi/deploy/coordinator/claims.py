"""What sites say of one another where a masked sum stays closed: what one says alone bars nobody else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from fedgmi.deploy.masks.keys import nth, threshold
from fedgmi.deploy.settings import LEAST_MASKED
from fedgmi.protocol.wire import Header

VOICES = 2  # one more than one liar has
Sites = tuple[int, ...]  # in ascending order; -1 for each that is not in the run


@dataclass
class Claims:
    """Of one try to open a sum.

    Attributes:
        before: By the site that refuses, the sites that it says its numbers were summed with.
        unopened: By site, who says that its sealed shares do not open.
    """

    before: dict[int, Sites] = field(default_factory=dict)
    unopened: dict[int, list[int]] = field(default_factory=dict)

    def note(self, i: int, header: Header, n_sites: int) -> None:
        """What a refusal claims. What cannot be is no claim.

        Args:
            i: Who refuses.
            header: Of its answer.
            n_sites: How many there are in the run.
        """
        summed = header.get("summed")
        if _indices(summed, n_sites) and i in summed and len(summed) >= threshold(LEAST_MASKED):
            self.before[i] = tuple(sorted(summed))
        if _indices(header.get("unopened"), n_sites):
            for accused in set(header["unopened"]) - {-1, i}:
                self.unopened.setdefault(accused, []).append(i)

    def accused(self) -> int | None:
        """The site whose shares most sites cannot open; None where no two say so of one.

        Examples:
            >>> claims = Claims()
            >>> claims.note(0, {"unopened": [2]}, 4)
            >>> claims.accused(), claims.in_words()
            (None, 'site 0 (counted from 0) alone says that shares of site 2 (counted from 0) do not open')
            >>> claims.note(1, {"unopened": [2]}, 4)
            >>> claims.accused()
            2
        """
        found = max(self.unopened, key=lambda i: len(self.unopened[i]), default=None)
        return found if found is not None and len(self.unopened[found]) >= VOICES else None

    def summed(self, asked: Collection[Sites]) -> Sites:
        """The sites that numbers were summed over before; none where one site alone says so.

        Args:
            asked: Sets of sites whose sums this coordinator has asked to be opened: of these one voice is enough.
        """
        said = Counter(self.before.values())
        known = {sites: n for sites, n in said.items() if n >= VOICES or sites in asked}
        return max(known, key=lambda sites: known[sites], default=())

    def in_words(self) -> str:
        """What sites say, whoever is right; "": nothing."""
        said = [
            f"{nth(voices[0])} alone says that shares of {nth(accused)} do not open"
            for accused, voices in sorted(self.unopened.items())
            if len(voices) < VOICES
        ]
        said += [f"{nth(i)} says that its numbers were summed over other sites before" for i in sorted(self.before)]
        return "; ".join(said)


def _indices(found: Any, n: int) -> TypeGuard[list[int]]:
    """Whether a site names some by their index; -1 stands for one that is not in the run."""
    return isinstance(found, list) and bool(found) and all(type(i) is int and -1 <= i < n for i in found)
