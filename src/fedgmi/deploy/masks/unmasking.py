"""The coordinator's side of masked sums: what is left of masks in a sum is found from shares, and taken off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

from torch import Tensor

from fedgmi.deploy.masks import shamir, stream
from fedgmi.deploy.masks.keys import SEALED, MaskError, Public, digest_of, nth, threshold
from fedgmi.deploy.masks.stream import Where


@dataclass
class Agreement:
    """What sites have agreed on.

    Attributes:
        run: The run's name.
        epoch: The agreement's name.
        members: All sites' public keys.
        sealed: By site, what it sealed for each other one: shares of all sums.
        next_slot: The first sum whose keys are not used up.
    """

    run: str
    epoch: str
    members: dict[int, Public]
    sealed: dict[int, dict[int, bytes]] = field(default_factory=dict)
    next_slot: int = 0

    def __post_init__(self) -> None:
        self.digest = digest_of(self.epoch, self.members)

    @property
    def threshold(self) -> int:
        """How many shares give a secret, and how many sites a sum has at least."""
        return threshold(len(self.members))

    @property
    def n_slots(self) -> int:
        """How many sums it is for."""
        return min(keys.n_slots for keys in self.members.values())

    def take(self, at: tuple[int, int]) -> Where:
        """Use up the keys of the next sum, for an exchange."""
        self.next_slot += 1
        return Where(self.run, self.digest, self.next_slot - 1, at)

    def sealed_for(self, site: int, slot: int, among: Sequence[int]) -> dict[int, bytes]:
        """The others' shares of a sum that one site holds, as they were sealed for it."""
        at = SEALED * slot
        return {i: self.sealed[i].get(site, b"")[at : at + SEALED] for i in among if i != site}


class Unopened(MaskError):
    """Too few right shares came of a site's secret.

    Attributes:
        site: Whose.
        blamed: Whether the fault is the site's own, even if one of the others lies.
        why: What it has done, where it is.
    """

    def __init__(
        self, site: int, came: int, needed: int, *, blamed: bool, why: str = "its shares of its secrets are wrong"
    ) -> None:
        super().__init__(
            f"the masks of {nth(site)} cannot be taken off: {came} shares of its secret came and no {needed} of them "
            "give it"
        )
        self.site, self.blamed, self.why = site, blamed, why


def unmasked(
    total: Mapping[str, Tensor],
    agreement: Agreement,
    where: Where,
    among: Sequence[int],
    told: Mapping[int, Mapping[int, bytes]],
    answered: Sequence[int],
) -> dict[str, Tensor]:
    """The sum of the messages in whole numbers.

    Args:
        total: The sum of the masked messages that came.
        agreement: Of the sites.
        where: What the masks are for.
        among: The sites that took part.
        told: By the site that told them, shares by site.
        answered: The sites whose messages came.

    Returns:
        The sum without masks.

    Raises:
        Unopened: Where shares of a secret are too few, or wrong.
    """
    shapes, found, t = stream.shapes_of(total), dict(total), agreement.threshold
    for i in among:
        shares = {holder + 1: every[i] for holder, every in told.items() if i in every}
        keys = agreement.members[i]
        if i in answered:
            seed = recovered(i, shares, t, partial(keys.is_seed, where.slot), told=i in told)
            found = stream.added(found, stream.masks(where.key(seed, i), shapes), -1)
            continue
        public = keys.key(where.slot)
        own = recovered(i, shares, t, partial(_is_key_of, public))
        for j in answered:
            shared = stream.agreed(own, agreement.members[j].key(where.slot))
            mask = stream.masks(where.key(shared, i, j), shapes)
            found = stream.added(found, mask, -1 if j < i else 1)
    return found


def recovered(
    site: int, shares: Mapping[int, bytes], t: int, right: Callable[[bytes], bool], *, told: bool = False
) -> bytes:
    """A site's secret from the shares that came of it, of which up to two may be wrong where there are more than t.

    Where one of more than t shares is wrong, the others give the secret. So a secret that no t of them give was never
    in them: the site shared another one. Of just t shares nobody knows whose fault it is, but for a site that has told
    others' shares and keeps its own.

    Args:
        site: Whose.
        shares: By place.
        t: How many give it.
        right: (a secret) → whether it is the one, by what is public of it.
        told: Whether the site itself has told shares of this sum.

    Returns:
        The secret.

    Raises:
        Unopened: Where there is none.
    """
    known = {place: share for place, share in shares.items() if len(share) == shamir.SHARE}
    for chosen in _choices(sorted(known), t):
        secret = shamir.secret_of({place: known[place] for place in chosen})
        if secret is not None and right(secret):
            return secret
    blamed = len(known) > t or (len(known) == t and told and site + 1 not in known)
    raise Unopened(site, len(known), t, blamed=blamed)


def _is_key_of(public: bytes, secret: bytes) -> bool:
    return stream.public_of(secret) == public


def _choices(places: Sequence[int], t: int) -> Iterator[Sequence[int]]:
    """t places, then such without any one or two."""
    for n in range(min(2, len(places) - t) + 1):
        for without in combinations(places, n):
            yield [place for place in places if place not in without][:t]
