"""A site's side of masked sums (Bonawitz et al. 2017): its keys, its masks, and what it tells of the others' shares.

    it sends    y_i = x_i + PRG(b_i) + Σ_{j>i} PRG(s_ij) − Σ_{j<i} PRG(s_ji)   (mod 2^64)

s_ij is known to sites i and j alone, b_i to site i. Both are in shares: b_i, and the key that the s_ij come from. Once
the coordinator has said whose messages it has, every site tells its share of b_i of those that answered, and of the key
of those that did not. It never tells both of one site.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from torch import Tensor

from fedgmi.deploy.masks import shamir, stream
from fedgmi.deploy.masks.keys import (
    SEALED,
    WHO,
    MaskError,
    Public,
    Unsealed,
    Untagged,
    digest_of,
    seal_of,
    sites_of,
    threshold,
    to_text,
)
from fedgmi.deploy.masks.stream import Where, derived
from fedgmi.deploy.masks.tries import Tries
from fedgmi.deploy.settings import LEAST_MASKED

COEFFICIENT = 40  # bytes
Shares = tuple[dict[int, bytes], dict[int, bytes]]  # of the key and of the seed, by site


@dataclass
class SiteKeys:
    """A site's keys for some masked sums.

    Attributes:
        run: The run's name.
        epoch: The agreement's name.
        site: This site's index.
        master: 32 bytes from which all its secrets of this agreement come. They are random, and gone with the next one.
        n_slots: How many sums.
        members: Public keys of all sites; none before they are agreed on.
        used: What each sum was for: its exchange, and the sites that take part.
        told: Those that answered, of each sum of which shares were told.
        digest: Of the agreement; "" before there is one.
        who: See `Public`.
        parts: Of each sum hashes of what this site has put in (`deploy.site.sums`).
        tries: How often keys were agreed on in each exchange of the run, by these and earlier agreements.
    """

    run: str
    epoch: str
    site: int
    master: bytes
    n_slots: int
    members: dict[int, Public] = field(default_factory=dict)
    used: dict[int, tuple[tuple[int, int], tuple[int, ...]]] = field(default_factory=dict)
    told: dict[int, tuple[int, ...]] = field(default_factory=dict)
    digest: str = ""
    who: bytes = bytes(WHO)
    parts: dict[int, list[str]] = field(default_factory=dict)
    tries: dict[tuple[int, int], Tries] = field(default_factory=dict)

    def public(self, secret: str | None = None) -> Public:
        """The keys that go to the others; secret: of the sites, which the coordinator lacks."""
        slots = b"".join(stream.public_of(self._key(slot)) for slot in range(self.n_slots))
        seals = b"".join(seal_of(self._seed(slot)) for slot in range(self.n_slots))
        plain = Public(stream.public_of(self._box()), slots, seals, self.who)
        return plain if secret is None else replace(plain, tag=plain.tagged(secret, self.epoch, self.site))

    @property
    def threshold(self) -> int:
        """How many shares give a secret."""
        return threshold(len(self.members))

    def agree(self, members: Mapping[int, Public], secret: str | None = None) -> dict[int, str]:
        """Take the others' keys, once, and seal a share of every secret for each.

        Args:
            members: All sites' public keys.
            secret: Of the sites. With it keys without its tag are refused, for the coordinator could have made them.

        Returns:
            By site, its sealed shares of all sums.

        Raises:
            MaskError: Where these cannot be the keys, or others were agreed on before.
        """
        mine = members.get(self.site)
        if mine is None or mine != self.public(secret):
            raise MaskError("the coordinator sent other keys of this site than the site has")
        if len(members) < LEAST_MASKED:
            have = "1 site has" if len(members) == 1 else f"{len(members)} sites have"
            raise MaskError(f"{have} keys, and masks hide nothing among fewer than {LEAST_MASKED}")
        if any(other.n_slots != self.n_slots for other in members.values()):
            raise MaskError("the sites' keys are for different numbers of sums")
        if len({other.box for other in members.values()}) < len(members):
            raise MaskError("two sites have the same key")
        if len({other.who for other in members.values()}) < len(members):
            raise MaskError("two sites have the same name", "give every site a name of its own in its site.toml")
        for i, other in members.items():
            other.check()
            if secret is not None and other.tag != other.tagged(secret, self.epoch, i):
                raise Untagged(i)
        if self.members and self.members != members:
            raise MaskError("the coordinator sent other keys than those that were agreed on")
        self.members, self.digest = dict(members), digest_of(self.epoch, members)
        cut = [self._shares(slot) for slot in range(self.n_slots)]
        return {
            i: to_text(b"".join(self._seal(i, slot, cut[slot]) for slot in range(self.n_slots)))
            for i in sorted(members)
            if i != self.site
        }

    def begin(self, slot: Any, at: tuple[int, int], among: Any) -> tuple[Where, tuple[int, ...]]:
        """Begin a sum: its keys are then used up.

        Args:
            slot: Which keys.
            at: The exchange.
            among: The sites that take part.

        Returns:
            What its masks are for, and the sites.

        Raises:
            MaskError: Where the keys have been used, or so few take part that the sum would be of too few.
        """
        slot = self.slot_of(slot)
        if slot in self.used:
            raise MaskError(f"the keys of sum {slot} have been used: masks never serve twice")
        sites = sites_of(among, self.members)
        if self.site not in sites or len(sites) < self.threshold:
            raise MaskError(f"a sum of {len(sites)} sites, expected {self.threshold} or more with this one")
        self.used[slot] = at, sites
        return Where(self.run, self.digest, slot, at), sites

    def slot_of(self, slot: Any) -> int:
        """Which keys, where these were agreed on.

        Raises:
            MaskError: Where they were not, or there is no such sum.
        """
        if not self.members:
            raise MaskError("no keys were agreed on")
        if type(slot) is not int or not 0 <= slot < self.n_slots:
            raise MaskError(f"there are keys for {self.n_slots} sums, and {str(slot)[:20]} is none of them")
        return slot

    def masked(self, leaves: Mapping[str, Tensor], where: Where, among: tuple[int, ...]) -> dict[str, Tensor]:
        """What the coordinator is sent of a message in whole numbers."""
        shapes, mine = stream.shapes_of(leaves), self._key(where.slot)
        hidden = stream.added(leaves, stream.masks(where.key(self._seed(where.slot), self.site), shapes))
        for other in among:
            if other != self.site:
                shared = stream.agreed(mine, self.members[other].key(where.slot))
                hidden = stream.added(
                    hidden,
                    stream.masks(where.key(shared, self.site, other), shapes),
                    1 if self.site < other else -1,
                )
        return hidden

    def tell(self, slot: Any, answered: Any, sealed: Mapping[int, bytes]) -> dict[int, str]:
        """Its shares for a sum: of the seeds of those that answered, of the keys of those that did not.

        Args:
            slot: Which sum.
            answered: The sites whose messages the coordinator has.
            sealed: Of every other site, the shares that it sealed for this one.

        Returns:
            One share by site; of those that did not answer none where it cannot be opened.

        Raises:
            MaskError: For a sum that this site has no part in, for fewer than the threshold, and where other sites
                were named before: then both kinds of shares of one site are asked for.
            Unsealed: Where a share of one that answered does not open. Then nothing is told: whoever tells shares of
                a sum tells those of all of it, and so all who have told enough for one site know the same sum.
        """
        if type(slot) is not int or slot not in self.used:
            raise MaskError("shares are asked for of a sum that this site has sent nothing to")
        among = self.used[slot][1]
        there = sites_of(answered, dict.fromkeys(among))
        if self.site not in there:
            raise MaskError("shares are asked for of a sum in which this site's message is not counted")
        if len(there) < self.threshold:
            raise MaskError(f"a sum of {len(there)} sites, expected {self.threshold} or more: its shares stay here")
        if self.told.setdefault(slot, there) != there:
            raise MaskError(
                "both kinds of shares of one site are asked for, which together show its numbers: they stay here",
                "the coordinator breaks the protocol: do not go on before its owner has explained it",
            )
        opened = {i: self._own(slot) if i == self.site else self._open(i, slot, sealed.get(i, b"")) for i in among}
        if any(opened[i] is None for i in there):
            raise Unsealed([i for i in there if opened[i] is None])
        return {i: to_text(both[1] if i in there else both[0]) for i, both in opened.items() if both is not None}

    def to_json(self) -> dict[str, Any]:
        """For the site's own disk; whoever reads it can take the site's masks off."""
        return {
            "run": self.run,
            "epoch": self.epoch,
            "site": self.site,
            "master": self.master.hex(),
            "n_slots": self.n_slots,
            "members": {str(i): keys.to_json() for i, keys in self.members.items()},
            "used": {str(slot): [list(at), list(among)] for slot, (at, among) in self.used.items()},
            "told": {str(slot): list(there) for slot, there in self.told.items()},
            "digest": self.digest,
            "who": self.who.hex(),
            "parts": {str(slot): parts for slot, parts in self.parts.items()},
            "tries": [[*at, tries.n, tries.since] for at, tries in self.tries.items()],
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> SiteKeys:
        """What `to_json` wrote."""
        members = {int(i): Public.from_json(keys) for i, keys in found["members"].items()}
        used = {int(slot): ((at[0], at[1]), tuple(among)) for slot, (at, among) in found["used"].items()}
        told = {int(slot): tuple(there) for slot, there in found["told"].items()}
        own = found["run"], found["epoch"], found["site"], bytes.fromhex(found["master"]), found["n_slots"]
        parts = {int(slot): list(some) for slot, some in found["parts"].items()}
        tries = {(int(one[0]), int(one[1])): Tries(int(one[2]), float(one[3])) for one in found.get("tries", ())}
        return cls(*own, members, used, told, found["digest"], bytes.fromhex(found["who"]), parts, tries)

    def _key(self, slot: int) -> bytes:
        return derived(self.master, "key", slot)

    def _seed(self, slot: int) -> bytes:
        return derived(self.master, "seed", slot)

    def _box(self) -> bytes:
        return derived(self.master, "box")

    def _shares(self, slot: int) -> Shares:
        """Of both secrets of a sum, by site. The places are the sites' indices and one."""
        found = []
        for kind, secret in (("key", self._key(slot)), ("seed", self._seed(slot))):
            drawn = [
                derived(self.master, "shares", kind, slot, self.digest, n, length=COEFFICIENT)
                for n in range(1, self.threshold)
            ]
            cut = shamir.shares(secret, drawn, [i + 1 for i in self.members])
            found.append({place - 1: share for place, share in cut.items()})
        return found[0], found[1]

    def _own(self, slot: int) -> tuple[bytes, bytes]:
        keys, seeds = self._shares(slot)
        return keys[self.site], seeds[self.site]

    def _seal(self, other: int, slot: int, cut: Shares) -> bytes:
        """Both shares for another site, for its eyes alone."""
        lock, both = self._lock(other, self.site, other), cut[0][other] + cut[1][other]
        found: bytes = lock.encrypt(slot.to_bytes(12, "big"), both, self._about(self.site, other, slot))
        return found

    def _open(self, other: int, slot: int, sealed: bytes) -> tuple[bytes, bytes] | None:
        """Both shares that another site sealed; None where it did not, or for another sum."""
        try:
            lock = self._lock(other, other, self.site)
            both = lock.decrypt(slot.to_bytes(12, "big"), sealed, self._about(other, self.site, slot))
        except (InvalidTag, ValueError):
            return None
        return (both[: shamir.SHARE], both[shamir.SHARE :]) if len(sealed) == SEALED else None

    def _lock(self, other: int, sender: int, receiver: int) -> AESGCM:
        shared = stream.agreed(self._box(), self.members[other].box)
        return AESGCM(derived(shared, "sealed", self.run, self.digest, sender, receiver))

    def _about(self, sender: int, receiver: int, slot: int) -> bytes:
        return json.dumps([self.run, self.digest, sender, receiver, slot]).encode()
