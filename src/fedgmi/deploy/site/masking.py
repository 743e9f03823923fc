"""A site's answers to what masked sums ask for; its keys stay on its own disk, for its own eyes."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgmi.deploy.masks.keys import MaskError, Public, to_bytes, who_is
from fedgmi.deploy.masks.site_keys import SiteKeys
from fedgmi.deploy.masks.tries import Tries
from fedgmi.deploy.settings import SLOTS
from fedgmi.deploy.site.sums import OtherSites, Sums, parts_of
from fedgmi.protocol import whole
from fedgmi.protocol.message import Message
from fedgmi.protocol.wire import Header, Parcel
from fedgmi.storage import files
from fedgmi.tree import Tree

FILE = "masks.json"
Leaving = Callable[[Parcel, bool], None]  # (an answer, whether it tells nothing new of rows) → it is noted


@dataclass(frozen=True)
class Masking:
    """A site's part in masked sums of one run.

    Attributes:
        where: The run's folder.
        run: The run's name.
        site: The site's index.
        n_sites: How many there may be.
        name: The site's.
        sums: What was summed before, and over which sites.
        secret: Of all sites, which the coordinator lacks; None: they have none.
        say: Takes a line for the site's own log.
    """

    where: Path
    run: str
    site: int
    n_sites: int
    name: str
    sums: Sums
    secret: str | None = None
    say: Callable[[str], None] = lambda line: None

    def answer(self, header: Header, leaving: Leaving = lambda reply, again: None) -> Parcel:
        """Answer a request of kind "masks": for keys, for shares, or for what takes masks off.

        Args:
            header: Of the request.
            leaving: Notes an answer before it leaves, and before the site remembers that it has told it.

        Returns:
            The answer.

        Raises:
            MaskError: Where there is no such thing to ask, or it would show a single site's numbers.
            OtherSites: Where a sum over other sites would show them. It names those of before by their index.
        """
        asked = header.get("masks")
        table = asked if isinstance(asked, dict) else {}
        if table.get("ask") == "keys":
            return _noted(Parcel({"keys": self._keys(table).public(self.secret).to_json()}), leaving)
        keys = self._known(table)
        if table.get("ask") == "shares":
            at, first = (header["round"], header["number"]), not keys.members
            found = keys.agree(self._members(table.get("members")), self.secret)
            if first:  # the same again is free
                keys.tries[at] = keys.tries.get(at, Tries()).once_more(at)
            self._write(keys)
            return _noted(Parcel({"shares": {str(i): text for i, text in found.items()}}), leaving)
        if table.get("ask") == "unmask":
            sealed = {int(i): to_bytes(text) for i, text in _by_site(table.get("sealed"), self.n_sites).items()}
            told = keys.tell(table.get("slot"), table.get("answered"), sealed)
            if keys.used[table["slot"]][0] != (header["round"], header["number"]):
                raise MaskError("shares are asked for of a sum of another exchange")
            reply = Parcel({"told": {str(i): text for i, text in told.items()}})
            self._admit(keys, table["slot"], lambda again: leaving(reply, again))
            self._write(keys)  # before anything is told, so that nothing else is told later
            return reply
        raise MaskError("the request asks for nothing that masked sums have", "update fedgmi")

    def hide(self, message: Message, header: Header, start: Tree | None = None) -> Message:
        """A message as the coordinator is sent it.

        Numbers that do not fit are cut. A site that refused would say of itself alone, without a mask, that a number
        is above a bound, and whoever chooses what is summed at chooses the bound.

        Args:
            message: The site's own.
            header: Of the request, whose `masks` names the keys and the sites of the sum.
            start: Where the models of the message stood, by name.

        Returns:
            The message in whole numbers, masked.

        Raises:
            MaskError: Where the request names no sum, or one that cannot be.
        """
        table = header.get("masks")
        if not isinstance(table, dict):
            raise _unmasked()
        keys = self._known(table)
        where, among = keys.begin(table.get("slot"), (int(header["round"]), int(header["number"])), table.get("among"))
        message, cut = whole.fitted(message, len(among), start)
        if cut:
            what = f"numbers of {', '.join(cut)} do not fit into a masked sum: models that ran away went out as unmoved"
            self.say(f"{what}, all else cut; nobody was told")
        leaves = whole.encoded(message, len(among))
        keys.parts[where.slot] = parts_of(message, len(among))
        self._write(keys)  # before anything is masked: these keys never serve again
        return whole.all_held(keys.masked(leaves, where, among))

    def _admit(self, keys: SiteKeys, slot: int, leaving: Callable[[bool], None]) -> None:
        """Remember over which sites this site's numbers are summed, or refuse it. leaving: (whether they were) → it is
        noted."""
        index = {keys.members[i].who.hex(): i for i in keys.members}
        there = [keys.members[i].who.hex() for i in keys.told[slot]]
        try:
            self.sums.admit(self.run, keys.used[slot][0], there, keys.parts[slot], leaving)
        except OtherSites as error:
            error.summed = [index.get(who, -1) for who in error.before]
            raise

    def noise(self, header: Header) -> tuple[int, tuple[str, int]]:
        """What noise under masks goes by: of how many sites a sum is at least, and which sum it is.

        Args:
            header: Of the request.

        Returns:
            The fewest sites whose messages are ever unmasked together; the keys' name, and their number.

        Raises:
            MaskError: Where the request names no sum.
        """
        table = header.get("masks")
        if not isinstance(table, dict):
            raise _unmasked()
        keys = self._known(table)
        return keys.threshold, (keys.epoch, int(keys.slot_of(table.get("slot"))))

    def _keys(self, asked: Header) -> SiteKeys:
        """Fresh keys for a new agreement; those of the present one where it is asked for again."""
        epoch, n_slots = asked.get("epoch"), asked.get("slots")
        if not isinstance(epoch, str) or not re.fullmatch(r"[0-9a-f]{16,64}", epoch):
            raise MaskError("an agreement on keys needs a name in hex")
        if type(n_slots) is not int or not 1 <= n_slots <= SLOTS:
            raise MaskError(f"keys for {str(n_slots)[:20]} sums are asked for, expected 1 to {SLOTS}")
        known = self._read()
        if known is not None and (known.epoch, known.site, known.n_slots) == (epoch, self.site, n_slots):
            return known
        master, who = secrets.token_bytes(32), who_is(self.name, self.secret)
        tries = {} if known is None else known.tries
        fresh = SiteKeys(self.run, epoch, self.site, master, n_slots, who=who, tries=tries)
        self._write(fresh)
        return fresh

    def _known(self, asked: Header) -> SiteKeys:
        found = self._read()
        if found is None or found.epoch != asked.get("epoch") or found.site != self.site:
            raise MaskError("the keys that the request names are not kept here")
        return found

    def _members(self, value: Any) -> dict[int, Public]:
        return {int(i): Public.from_json(keys) for i, keys in _by_site(value, self.n_sites).items()}

    def _read(self) -> SiteKeys | None:
        path = self.where / FILE
        if not path.exists():
            return None
        try:
            found = files.read_json(
                path, "keys of masks", {"epoch", "master"}, "remove it; new keys are then agreed on"
            )
            return SiteKeys.from_json(found)
        except Exception:  # damaged: new keys are agreed on
            return None

    def _write(self, keys: SiteKeys) -> None:
        before = os.umask(0o077)  # at no moment is it for others to read
        try:
            files.write_json(self.where / FILE, keys.to_json())
        finally:
            os.umask(before)


def _noted(reply: Parcel, leaving: Leaving) -> Parcel:
    """An answer that tells nothing of rows: keys, or shares that are sealed."""
    leaving(reply, True)
    return reply


def _unmasked() -> MaskError:
    fix = "ask the coordinator: its federation.toml is not that of the sites"
    return MaskError("the request asks for this site's own numbers, and federation.toml says masks", fix)


def _by_site(value: Any, n_sites: int) -> dict[str, Any]:
    """A table whose keys are sites' indices."""
    names = {str(i) for i in range(n_sites)}
    if not isinstance(value, dict) or not value.keys() <= names:
        raise MaskError(f"the request has no table by site, of {n_sites} at most")
    return value
