"""A coordinator that asks a site what it likes: it knows federation.toml, and chooses the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from fedgmi import __version__
from fedgmi.deploy.site.site import Site
from fedgmi.protocol import wire
from fedgmi.protocol.blocks import cut
from fedgmi.protocol.wire import Parcel

RUN = "0123456789abcdef"


def noted(site: Site) -> str:
    """Why a site refused what it refused last, by its own log."""
    why: str = list(site.audit().refusals())[-1]["why"]
    return why


@dataclass
class Hostile:
    """Asks one site.

    Attributes:
        site: The site.
        replies: What it answered that was no error.
        errors: What it said instead.
    """

    site: Site
    replies: list[Parcel] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def header(self, kind: str, run: str = RUN, **more: object) -> dict[str, object]:
        federation = self.site.federation.digest()
        own: dict[str, object] = wire.request(kind, version=__version__, federation=federation, run=run, attempt="a")
        return own | more

    def ask(self, header: Mapping[str, object], leaves: Mapping[str, torch.Tensor] | None = None) -> Parcel | None:
        """The reply; None where the site refuses."""
        treeless = header["kind"] in ("hello", "masks")
        reply = self.site.answer(Parcel(dict(header)) if treeless else cut(leaves or {}).parcel(dict(header)))
        if "error" in reply.header:
            self.errors.append(reply.header["error"])
            return None
        self.replies.append(reply)
        return reply

    def step(
        self, name: str, number: int, leaves: Mapping[str, torch.Tensor], *, round: int = 0, run: str = RUN, id: int = 0
    ) -> Parcel | None:
        """Ask for a step of a round by its name."""
        program = self.site.method().program
        steps = program.prepare if round == 0 else program.round
        index = next(n for n, step in enumerate(steps) if step.name == name)
        place = {"round": round, "number": number, "step": index, "id": id, "base": None}
        return self.ask(self.header("step", run=run, **place), leaves)
