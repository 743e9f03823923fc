"""What sites agree on before they mask: public keys by site, their digest, and how many shares give a secret."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedgmi.deploy.masks.shamir import SHARE
from fedgmi.deploy.masks.stream import KEY, agreed
from fedgmi.deploy.settings import SLOTS
from fedgmi.errors import RequestError

SEALED = 2 * SHARE + 16  # two shares, and AES-GCM's tag
WHO = 16  # bytes


class MaskError(RequestError):
    """What masks do not allow, or cannot be undone by."""

    def __init__(self, what: str, fix: str = "ask the coordinator; its next try begins with new keys") -> None:
        super().__init__(what, where="communication.secure", fix=fix)


def nth(site: int) -> str:
    """A site as other sites know it, which know no names; the coordinator says its name in place of it.

    Examples:
        >>> nth(2)
        'site 2 (counted from 0)'
        >>> named("the keys of site 2 (counted from 0) lack the tag", ["A", "B", "C"])
        'the keys of C lack the tag'
    """
    return f"site {site} (counted from 0)"


def named(text: str, names: Sequence[str]) -> str:
    """A text with names in place of what `nth` says.

    Args:
        text: Of an error.
        names: Of the sites.
    """

    def name(found: re.Match[str]) -> str:
        site = int(found[1])
        return names[site] if site < len(names) else found[0]

    return re.sub(r"site (\d{1,9}) \(counted from 0\)", name, text)


class Unsealed(MaskError):
    """Shares that another site sealed for this one, and that do not open.

    Attributes:
        unopened: Whose.
    """

    def __init__(self, sites: Sequence[int]) -> None:
        super().__init__(f"shares of {nth(sites[0])} do not open here, so that the sum stays closed")
        self.unopened = list(sites)


class Untagged(MaskError):
    """Another site's keys that lack the tag of the sites' secret.

    Attributes:
        unopened: Whose.
    """

    def __init__(self, site: int) -> None:
        fix = "every site needs the same mask_secret in its site.toml; if all have it, the keys are forged"
        super().__init__(f"the keys of {nth(site)} lack the tag of the sites' secret", fix)
        self.unopened = [site]


@dataclass(frozen=True)
class Public:
    """A site's public keys.

    Attributes:
        box: By which shares are sealed for it. 32 bytes
        slots: For the masks of each sum, one after the other. 32 bytes each
        seals: SHA-256 of the seed of its own mask of each sum, by which a wrong share shows. 32 bytes each
        who: The same in all runs for the same site, whatever index it has; see `who_is`. 16 bytes
        tag: HMAC of all that under the secret of the sites, where they have one.
    """

    box: bytes
    slots: bytes
    seals: bytes
    who: bytes
    tag: bytes = b""

    @property
    def n_slots(self) -> int:
        """How many sums they are for."""
        return len(self.slots) // KEY

    def key(self, slot: int) -> bytes:
        """The public key of one sum."""
        return self.slots[KEY * slot : KEY * (slot + 1)]

    def is_seed(self, slot: int, seed: bytes) -> bool:
        """Whether this is the seed of its own mask of one sum."""
        return hmac.compare_digest(seal_of(seed), self.seals[KEY * slot : KEY * (slot + 1)])

    def check(self) -> None:
        """Refuse keys by which everybody would know what two sites share (RFC 7748, section 6.1).

        Raises:
            MaskError: For a key of low order.
        """
        try:
            for key in (self.box, *pieces(self.slots, KEY)):
                agreed(bytes(KEY), key)
        except ValueError as error:
            raise MaskError("a site's public keys are of low order, so that they hide nothing") from error

    def to_json(self) -> dict[str, str]:
        """As a header has it."""
        found = {name: to_text(getattr(self, name)) for name in ("box", "slots", "seals", "who")}
        return found | ({"tag": to_text(self.tag)} if self.tag else {})

    @classmethod
    def from_json(cls, found: Any) -> Public:
        """What `to_json` wrote.

        Raises:
            MaskError: For what is no such thing.
        """
        if not isinstance(found, dict):
            raise MaskError("a site's public keys are no table")
        own = {name: to_bytes(found.get(name)) for name in ("box", "slots", "seals", "who")}
        keys = cls(**own, tag=to_bytes(found.get("tag", "")))
        whole = len(keys.box) == KEY and 0 < len(keys.slots) == len(keys.seals) <= KEY * SLOTS
        if not whole or len(keys.slots) % KEY or len(keys.who) != WHO or len(keys.tag) not in (0, KEY):
            raise MaskError("a site's public keys are not of their length")
        return keys

    def tagged(self, secret: str, epoch: str, site: int) -> bytes:
        """The tag that these keys have of a site in an agreement, under the secret of the sites."""
        text = json.dumps([epoch, site, self.to_json() | {"tag": ""}], sort_keys=True)
        return hmac.digest(secret.encode(), b"fedgmi masks 1" + text.encode(), "sha256")


def who_is(name: str, secret: str | None) -> bytes:
    """By what the other sites know a site again in later runs. Without a secret of the sites anybody can say it.

    Examples:
        >>> who_is("north", "a word among us") == who_is("south", "a word among us")
        False
    """
    return hmac.digest((secret or "").encode(), b"fedgmi site" + name.encode(), "sha256")[:WHO]


def digest_of(epoch: str, members: Mapping[int, Public]) -> str:
    """Of an agreement: equal where all have the same keys of the same sites."""
    text = json.dumps([epoch, [[i, members[i].to_json()] for i in sorted(members)]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def threshold(n_sites: int) -> int:
    """How many shares give a secret: more than half, so that nobody gathers two kinds of shares from two halves.

    Examples:
        >>> [threshold(n) for n in (3, 4, 5, 10)]
        [2, 3, 3, 6]
    """
    return n_sites // 2 + 1


def seal_of(seed: bytes) -> bytes:
    """What is public of a seed."""
    return hashlib.sha256(b"fedgmi seed" + seed).digest()


def sites_of(value: Any, known: Mapping[int, object]) -> tuple[int, ...]:
    """Sites that a request names, in ascending order and each once.

    Raises:
        MaskError: For anything else, or a site that is not known.
    """
    if not isinstance(value, list) or any(type(i) is not int for i in value) or value != sorted(set(value)):
        raise MaskError("the request does not name sites in ascending order")
    if not known.keys() >= set(value):
        raise MaskError("the request names a site without keys")
    return tuple(value)


def to_text(data: bytes) -> str:
    """As a header has bytes."""
    return base64.b64encode(data).decode()


def to_bytes(text: Any) -> bytes:
    """What `to_text` wrote.

    Raises:
        MaskError: For anything else.
    """
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else _no_bytes()
    except (binascii.Error, ValueError) as error:
        raise MaskError("what should be bytes is none") from error


def _no_bytes() -> bytes:
    raise MaskError("what should be bytes is no text")


def pieces(data: bytes, size: int) -> Sequence[bytes]:
    """The data cut into pieces of one size."""
    return [data[at : at + size] for at in range(0, len(data), size)]
