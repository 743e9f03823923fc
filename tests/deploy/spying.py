"""A coordinator that takes masked sums over sites of its choosing, at what it chooses, and keeps all that opens."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from hostile import RUN

from fedgmi import __version__
from fedgmi.deploy.masks.keys import Public, to_bytes, to_text, who_is
from fedgmi.deploy.masks.site_keys import SiteKeys
from fedgmi.deploy.masks.stream import added
from fedgmi.deploy.masks.unmasking import Agreement, unmasked
from fedgmi.deploy.site.site import Site
from fedgmi.protocol import whole, wire
from fedgmi.protocol.blocks import cut
from fedgmi.protocol.message import flatten
from fedgmi.protocol.wire import Parcel, unpack
from fedgmi.tree import Tree

SLOTS = 4  # sums of an agreement


class Refusal(Exception):
    """A site's."""


@dataclass
class Spy:
    """Asks several sites.

    Attributes:
        sites: By index.
        secret: Of the sites, where it knows it.
        own: Indices of sites that it plays itself; their messages are zeros.
        opened: What it has read: the sites of the sum, and the sum in whole numbers.
        asked: How many requests.
    """

    sites: dict[int, Site]
    secret: str | None = None
    own: dict[int, SiteKeys] = field(default_factory=dict)
    opened: list[tuple[tuple[int, ...], Tree]] = field(default_factory=list)
    asked: int = 0

    def ask(self, i: int, kind: str, leaves: Mapping[str, torch.Tensor], **more: Any) -> Parcel:
        site = self.sites[i]
        run = more.pop("run", RUN)
        header = wire.request(kind, version=__version__, federation=site.federation.digest(), run=run, attempt="a")
        if kind != "hello":
            header |= {"id": i}
        header |= more
        request = Parcel(header) if kind in ("masks", "hello") else cut(leaves).parcel(header)
        self.asked += 1
        reply = site.answer(Parcel(json.loads(json.dumps(request.header)), request.payload))
        if "error" in reply.header:
            raise Refusal(reply.header["error"])
        return reply

    def agree(self, ids: Sequence[int], run: str = RUN, epoch: str = "", **place: int) -> Agreement:
        """Keys among sites, those that it plays itself included."""
        epoch, at = epoch or secrets.token_hex(8), {"round": 0, "number": 0} | place
        for i in set(ids) - set(self.own):
            self.ask(i, "hello", {}, run=run)
        asking = {"ask": "keys", "epoch": epoch, "slots": SLOTS}
        members = {
            i: Public.from_json(self.ask(i, "masks", {}, run=run, masks=asking, **at).header["keys"])
            for i in ids
            if i not in self.own
        }
        for i in self.own:
            who = who_is(f"client-0{i}", self.secret)
            self.own[i] = SiteKeys(run, epoch, i, secrets.token_bytes(32), SLOTS, who=who)
            members[i] = self.own[i].public(self.secret)
        found = Agreement(run, epoch, members)
        asking = {"ask": "shares", "epoch": epoch, "members": {str(i): keys.to_json() for i, keys in members.items()}}
        for i in members:
            if i in self.own:
                shares: Mapping[str | int, str] = {**self.own[i].agree(members, self.secret)}
            else:
                shares = self.ask(i, "masks", {}, run=run, masks=asking, **at).header["shares"]
            found.sealed[i] = {int(j): to_bytes(text) for j, text in shares.items()}
        return found

    def sum(
        self,
        name: str,
        number: int,
        leaves: Mapping[str, torch.Tensor],
        among: Sequence[int],
        agreement: Agreement | None = None,
        *,
        run: str = RUN,
        round: int = 0,
        answered: Sequence[int] | None = None,
    ) -> Tree:
        """Open a sum of a step.

        Raises:
            Refusal: By the first site that refuses.
        """
        agreement = agreement or self.agree(among, run, round=round, number=number)
        some = next(iter(self.sites.values())).method().program
        steps = some.prepare if round == 0 else some.round
        index = next(n for n, step in enumerate(steps) if step.name == name)
        where = agreement.take((round, number))
        table = {"epoch": agreement.epoch, "slot": where.slot, "among": list(among)}
        place = {"run": run, "round": round, "number": number}
        sent: dict[int, Tree] = {}
        for i in among:
            if i not in self.own:
                reply = self.ask(i, "step", leaves, step=index, base=None, masks=table, **place)
                sent[i] = flatten(unpack(reply))
        there = sorted(among if answered is None else answered)
        for i in set(there) & set(self.own):
            zeros = {name: torch.zeros_like(leaf) for name, leaf in next(iter(sent.values())).items()}
            sent[i] = self.own[i].masked(zeros, *self.own[i].begin(where.slot, where.at, list(among)))
        told = {}
        for i in there:
            sealed = agreement.sealed_for(i, where.slot, list(among))
            if i in self.own:
                shares: Mapping[Any, str] = self.own[i].tell(where.slot, there, sealed)
            else:
                asking = {"ask": "unmask", "epoch": agreement.epoch, "slot": where.slot, "answered": there}
                asking |= {"sealed": {str(j): to_text(data) for j, data in sealed.items()}}
                shares = self.ask(i, "masks", {}, masks=asking, **place).header["told"]
            told[i] = {int(j): to_bytes(text) for j, text in shares.items()}
        total: Tree = {}
        for i in there:
            total = added(total, sent[i]) if total else sent[i]
        found = unmasked(total, agreement, where, list(among), told, there)
        self.opened.append((tuple(there), found))
        return found


def own_numbers(site: Site, name: str, leaves: Mapping[str, torch.Tensor], n: int) -> Tree:
    """What a site alone would put into a sum of n, in whole numbers."""
    program = site.method().program
    step = next(step for step in program.prepare if step.name == name)
    rows = site._rows(site.train, {"id": 0})
    with torch.no_grad():
        _, message = step.client(dict(leaves), program.client_init((0,)), rows, 0)
    return whole.encoded(message, n)
