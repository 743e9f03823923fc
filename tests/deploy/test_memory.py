"""What a site keeps on its disk: blocks as the wire's rule says, states as long as they can be asked for."""

from __future__ import annotations

import os

import pytest
import torch

from fedgmi.deploy.site.memory import BLOCKS, Kept, Memory, forget_runs, memory_of
from fedgmi.errors import UserError
from fedgmi.protocol.blocks import still_held
from fedgmi.protocol.wire import hash_of


def block(*texts: str) -> dict[str, bytes]:
    """Blocks by their hash."""
    return {hash_of(text.encode()): text.encode() for text in texts}


NAME = "0123456789abcdef"


def test_blocks_follow_the_wire_s_rule(tmp_path):
    """Request by request the disk has what the coordinator believes that it has."""
    memory, held = Memory(tmp_path), dict[str, int]()
    for round, wanted in [(0, "ab"), (0, "c"), (1, "a"), (2, "d"), (2, "de"), (3, "f"), (5, "a")]:
        blocks = block(*wanted)
        memory.keep_blocks(blocks, round)
        held = still_held(held, blocks, round)
        assert memory.blocks().keys() == held.keys()
    assert memory.blocks() == block("a")


def test_a_damaged_block_is_thrown_away_and_can_be_kept_anew(tmp_path):
    memory, blocks = Memory(tmp_path), block("a", "b", "c")
    memory.keep_blocks(blocks, 1)
    wrong, cut, _ = ((tmp_path / "blocks" / name) for name in blocks)
    wrong.write_bytes(b"A")
    cut.write_bytes(b"")
    assert memory.blocks() == block("c")
    memory.keep_blocks(blocks, 1)
    assert memory.blocks() == blocks


@pytest.mark.parametrize("text", [None, "", "{", "[1]"])
def test_a_lost_index_of_rounds_costs_blocks_alone(tmp_path, text):
    memory = Memory(tmp_path)
    memory.keep_blocks(block("a"), 1)
    if text is None:
        (tmp_path / BLOCKS).unlink()
    else:
        (tmp_path / BLOCKS).write_text(text)
    memory.keep_blocks(block("b"), 1)
    assert memory.blocks() == block("b")


def kept(value: float) -> Kept:
    return Kept({"proportions": torch.tensor([[value]])}, {"sums/rows": torch.tensor(1)}, "asked")


def test_states_stay_as_long_as_a_coordinator_can_build_on_them(tmp_path):
    """The two newest, and the last ones of the rounds before."""
    memory = Memory(tmp_path)
    for round in range(6):
        for number in range(3):
            memory.save((round, number), kept(round + number / 10))
    assert memory.exchanges() == [(3, 2), (4, 2), (5, 1), (5, 2)]
    found = memory.load((4, 2))
    assert found is not None
    assert found.state["proportions"].item() == pytest.approx(4.2)
    assert found.request == "asked"
    assert memory.load((2, 2)) is None


def test_what_a_request_builds_on_stays_until_a_later_exchange_is_named(tmp_path):
    """Replies of rounds 2 to 6 were late. Then one came; the coordinator may go back to its checkpoint of round 6."""
    memory = Memory(tmp_path)
    for number in range(2):
        memory.save((1, number), kept(1.0), None if number == 0 else (1, 0))
    for round in range(2, 7):
        memory.save((round, 0), kept(round), (1, 1))
        assert memory.load((1, 1)) is not None
    memory.save((7, 0), kept(7.0), (1, 1))
    memory.save((7, 1), kept(7.1), (7, 0))
    assert memory.load((1, 1)) is not None
    for round in range(8, 11):
        memory.save((round, 0), kept(round), (round - 1, 1 if round == 8 else 0))
    assert memory.exchanges() == [(7, 1), (8, 0), (9, 0), (10, 0)]


def test_a_damaged_state_that_nobody_asks_for_is_in_nobody_s_way(tmp_path):
    memory = Memory(tmp_path)
    memory.save((1, 0), kept(1.0))
    (tmp_path / "000001-0000.json").write_text("{")
    memory.save((2, 0), kept(2.0), (1, 0))
    assert memory.load((2, 0)) is not None


def test_a_plan_goes_with_the_next_greeting_that_has_none(tmp_path):
    memory = Memory(tmp_path)
    memory.keep_plan({"communication.precision": "4"})
    assert memory.plan() == {"communication.precision": "4"}
    memory.keep_plan(None)
    assert memory.plan() is None


def test_what_an_abandoned_future_left_behind_goes(tmp_path):
    """The coordinator went back to its checkpoint of round 1."""
    memory = Memory(tmp_path)
    for at in [(1, 0), (2, 0), (3, 0)]:
        memory.save(at, kept(0.0))
    memory.save((2, 0), kept(1.0))
    assert memory.exchanges() == [(1, 0), (2, 0)]


@pytest.mark.parametrize("name", ["../../etc", "", "ABCDEF0123456789", "0" * 65])
def test_a_run_s_name_is_no_path(tmp_path, name):
    with pytest.raises(UserError, match="is no name of a run"):
        memory_of(tmp_path, name)


def test_older_runs_go_but_those_that_go_on(tmp_path):
    names = [f"{n}{NAME[1:]}" for n in range(5)]
    for n, name in enumerate(names):
        memory = memory_of(tmp_path, name)
        memory.save((0, 0), kept(0.0))
        os.utime(memory.where, (n, n))
    forget_runs(tmp_path, {names[0]})
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [names[0], *names[3:]]


def test_greetings_do_not_make_runs_go_that_are_over(tmp_path):
    names = [f"{n}{NAME[1:]}" for n in range(9)]
    for n, name in enumerate(names):
        memory = memory_of(tmp_path, name)
        memory.save((0, 0), kept(0.0))
        os.utime(memory.where, (n, n))
    forget_runs(tmp_path, set(), set(names[:3]))
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [*names[1:3], *names[-2:]]
