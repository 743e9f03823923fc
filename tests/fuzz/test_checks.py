"""Answers of one site with random damage, at every step: it is absent, or what it sent can be used."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from damage import cheap, damaged, damaged_bytes, text_of
from local_post import LocalPost, few_exchanges, make_sites

from fedgmi import tree
from fedgmi.deploy.coordinator import remote as remote_module
from fedgmi.deploy.coordinator.checks import Expected, read, sound
from fedgmi.deploy.coordinator.closing import quality_told
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.coordinator.remote import Remote
from fedgmi.deploy.coordinator.roster import Member, Roster
from fedgmi.protocol.message import Message, flatten, unflatten
from fedgmi.protocol.sizes import reply_bytes
from fedgmi.protocol.step import Step
from fedgmi.protocol.wire import Parcel, hash_of, pack, unpack

CASES = 2000
ROWS = 40
NUMBERS = (0.0, -1.0, 1.0, 0.5, 40.0, 1e3, 1e9, -1e9, 1e18, 1e30, 1e150, 1e300, float("nan"), float("inf"))


@dataclass(frozen=True)
class Asked:
    """A step as a coordinator asked it: what it expected, where it stood, and what two sites answered."""

    step: Step
    expected: Expected
    server: dict[str, torch.Tensor]
    round: int
    replies: dict[int, Parcel]


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> tuple[Any, list[Asked]]:
    """Every step of a run of the default method, once; and the method."""
    found: dict[str, Asked] = {}
    patch = pytest.MonkeyPatch()
    whole = Remote._once

    def once(self: Remote, step: Step, server: Any, ids: Any, expected: Expected, take: Any) -> Any:
        now = Asked(step, expected, dict(server), self.round, {})
        known = found.setdefault(step.name, now)
        if known is now:
            patch.setattr(
                remote_module,
                "read",
                lambda parcel, *rest: (now.replies.update({rest[1]: parcel}), read(parcel, *rest))[1],
            )
        answer = whole(self, step, server, ids, expected, take)
        patch.setattr(remote_module, "read", read)
        return answer

    settings = few_exchanges()
    where = tmp_path_factory.mktemp("steps")
    patch.setattr(Remote, "_once", once)
    Coordinator(settings, LocalPost(make_sites(settings, where / "sites")), where / "out", echo=lambda line: None).run()
    patch.undo()
    return settings.setup().method(), list(found.values())


def other_numbers(parcel: Parcel, draws: random.Random) -> Parcel:
    """Well packed, with other numbers in one leaf: what a site sends that lies."""
    leaves = flatten(unpack(parcel))
    if not leaves:
        return parcel
    name = draws.choice(sorted(leaves))
    leaf, how = leaves[name], draws.randrange(5)
    numbers = leaf.double().reshape(-1).clone()
    if how == 0:
        numbers[:] = draws.choice(NUMBERS)
    elif how == 1 and len(numbers):
        numbers[draws.randrange(len(numbers))] = draws.choice(NUMBERS)
    elif how == 2:
        numbers *= draws.choice((-1.0, 1e-3, 2.0, 1e3, 1e12))
    elif how == 3 and len(numbers):
        numbers[draws.randrange(len(numbers))] *= draws.choice((-1.0, 0.9, 1.1, 3.0))
    if not leaf.is_floating_point():
        numbers = numbers.nan_to_num().clamp(-(2.0**31), 2.0**31 - 1)
    other = numbers.to(leaf.dtype).reshape(leaf.shape)
    other = (other[:-1] if leaf.ndim else other[None]) if how == 4 else other
    try:
        return pack(unflatten(leaves | {name: other}), {"rows": parcel.header["rows"]})
    except (KeyError, IndexError, RuntimeError):  # a model without its mass
        return parcel


def spoilt(parcel: Parcel, draws: random.Random) -> Parcel:
    """One of: other numbers, another header, other bytes."""
    how = draws.randrange(3)
    if how == 0 and "hash" in parcel.header:
        return other_numbers(parcel, draws)
    header: Any = damaged(dict(parcel.header), draws) if how == 1 else dict(parcel.header)
    payload = damaged_bytes(parcel.payload.numpy().tobytes() or b"\x00", draws) if how == 2 else None
    if payload is not None:
        header |= {"hash": hash_of(payload)}
    try:
        read_again = json.loads(text_of(header))
    except (ValueError, RecursionError):
        read_again = {"error": "this is no message of fedgmi"}  # so says the bridge to Flower
    data = parcel.payload if payload is None else torch.frombuffer(bytearray(payload or b"\x00"), dtype=torch.uint8)
    return Parcel(read_again, data)


def test_answers(steps):
    """Whatever passes is used beside two honest answers, and nothing is infinite after it."""
    method, every = steps
    used = refused = 0
    with cheap() as case:
        for seed in range(CASES):
            case()
            draws = random.Random(seed)
            at = every[seed % len(every)]
            parcel = sound(spoilt(at.replies[3], draws))
            Member("ward", ROWS).heard(parcel)
            message, why = read(parcel, at.expected, 3, ROWS)
            assert bool(why) == (message is None)
            assert why.isprintable()
            if message is None:
                refused += 1
                continue
            assert sum(reply_bytes(method.program, at.step, parcel).values()) == parcel.n_bytes
            honest = [read(at.replies[i], at.expected, i, ROWS)[0] for i in (0, 1)]
            total = sum([*honest, message], Message())
            after = at.step.server(at.server, total, at.round)
            assert tree.not_finite(flatten(total) | after) is None, at.step.name
            used += 1
    assert min(used, refused) > CASES / 20


@dataclass(frozen=True)
class Post:
    """One node, which answers this."""

    reply: Parcel

    def nodes(self) -> list[int]:
        return [7]

    def ask(self, requests: Any, deadline_s: float) -> dict[int, Parcel]:
        return {7: self.reply}


def test_greetings_and_ends():
    """Who comes, and what it tells of its predictor."""
    told: list[str] = []
    end = pack(Message(replies={"accuracy": torch.tensor([0.5], dtype=torch.float64)}), {"rows": 3})
    with cheap() as case:
        for seed in range(CASES):
            case()
            draws = random.Random(seed)
            hello = Parcel({"site": "ward", "rows": 40, "held_out": 3, "token": "0" * 32})

            roster = Roster(2, told.append, 1000)
            roster.call(Post(spoilt(hello, draws)), hello, 1.0)
            assert len(roster.members) + len(roster.strangers) == 1
            assert all(type(member.rows) is int and 1 <= member.rows <= 1000 for member in roster.members)
            assert all(0 <= value <= 1 for value in quality_told(sound(spoilt(end, draws))).values())
    assert all(line.isprintable() for line in told)
    assert sum("is here" in line for line in told) > CASES / 20
    assert sum("is not let in" in line for line in told) > CASES / 20
