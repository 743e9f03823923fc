"""What a request's header has to say before a site does anything for it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fedgmi.deploy.settings import FederationSettings
from fedgmi.deploy.site.guard import OverLimit
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.step import Program, Step
from fedgmi.protocol.wire import Header, Parcel, WireError

MOST_EXCHANGES = 10_000  # of a round: files of states have four digits for them


COMMON = frozenset({"kind", "version", "federation", "run", "attempt"})
TREE = frozenset({"layout", "sent", "sizes", "forms"})
KEYS = {
    "hello": COMMON | {"plan", "turned_away"},
    "step": COMMON | TREE | {"round", "number", "step", "id", "base", "masks"},
    "masks": COMMON | {"round", "number", "id", "masks"},
    "finish": COMMON | TREE | {"round", "id", "base", "diagnosis"},
}
"""What the header of a request may say, by its kind. All else that a site goes by stands in federation.toml."""


def check_header(request: Parcel, most_mb: float) -> None:
    """Refuse a request that is too large, or says what no request does.

    Args:
        request: As it came.
        most_mb: How large it may be.

    Raises:
        OverLimit: It is too large.
        WireError: It names what was found and what was expected.
    """
    header, size = request.header, request.n_bytes
    if size > most_mb * 1e6:
        raise OverLimit(f"the request has {size} bytes, and max_request_mb is {most_mb:g}: the site can raise it")
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in KEYS:
        raise WireError(f"there is no request of kind {_short(kind)}, expected {', '.join(KEYS)}: update fedgmi")
    strange = sorted(header.keys() - KEYS[kind])
    if strange:
        raise WireError(f"the request says {_short(strange[0])}, which no request of kind {kind!r} does")


def check_place(header: Header, program: Program, federation: FederationSettings) -> Step | None:
    """Refuse a request that belongs nowhere in the run.

    Args:
        header: The request's.
        program: The site's own.
        federation: federation.toml.

    Returns:
        The step that is asked for; None at the end, when results are handed out.

    Raises:
        WireError: It names what of the header cannot be, and what was expected.
    """
    within(header, "round", federation.rounds + 1)
    within(header, "id", federation.sites - 1)
    base, at = header.get("base"), (header["round"], MOST_EXCHANGES)
    if not isinstance(header.get("diagnosis"), dict | None):
        raise WireError(f"the request has diagnosis = {_short(header['diagnosis'])}, expected a table: update fedgmi")
    step = None
    if header.get("kind") == "step":
        within(header, "number", MOST_EXCHANGES - 1)
        steps = program.steps(phase_of(header["round"], federation.rounds))
        within(header, "step", len(steps) - 1)
        step, at = steps[header["step"]], (header["round"], header["number"])
    if base is None:
        return step
    known = isinstance(base, list) and len(base) == 2 and all(_whole(n, MOST_EXCHANGES * 100) for n in base)
    if not known or tuple(base) >= at:
        raise WireError(f"the request builds on exchange {_short(base)}, expected an earlier one than {list(at)}")
    return step


def fingerprint(header: Header, *but: str) -> str:
    """A hash of all that a request asks, whichever blocks came with it; without the keys `but` of its header."""
    left_out = {"sent", "sizes", "forms", "attempt", *but}
    asked = {k: v for k, v in header.items() if k not in left_out}
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).hexdigest()


def within(header: Header, name: str, most: int) -> None:
    """Refuse a request that does not have a whole number from 0 to `most` under a name."""
    if not _whole(header.get(name), most):
        raise WireError(f"the request has {name} = {_short(header.get(name))}, expected 0 to {most}")


def _whole(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _short(value: Any) -> str:
    return repr(value)[:40]
