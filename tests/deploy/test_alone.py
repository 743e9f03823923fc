"""A site that is the only one asked, or the only one that answers, ends no run: others are there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from local_post import Fault, LocalPost, Stopped, make_sites, settings_of
from test_coordinator import log_of
from test_masked_sites import masked

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.coordinator.heard import MOST_WAITS, Heard
from fedgmi.deploy.coordinator.roster import Member, Roster
from fedgmi.errors import DivergedError, UserError
from fedgmi.protocol.rounds import participants
from fedgmi.protocol.wire import Parcel
from fedgmi.storage import checkpoint

ROUNDS = 8
ONE = settings_of("fedavg", participation=0.16).model_copy(update={"rounds": ROUNDS, "wait_s": 0.3})
ALL = settings_of("fedavg").model_copy(update={"wait_s": 0.3})
ASKED = [participants(6, 0.16, 0, round)[0] for round in range(1, ROUNDS + 1)]
ILL = max(set(ASKED), key=ASKED.count)  # asked alone most often
NAME = f"client-0{ILL}"


def in_rounds(answer: Parcel | None, last: int = ROUNDS) -> Fault:
    """A site that answers so in rounds."""
    return lambda request, reply: (
        answer if request.header["kind"] == "step" and 1 <= request.header["round"] <= last else reply
    )


DIVERGED = in_rounds(Parcel({"error": "oh", "diverged": True}))
WRONG: dict[str, tuple[Fault, str]] = {
    "diverged": (DIVERGED, "training has diverged at 1 of 6 sites"),
    "silent": (in_rounds(None), "nobody answered"),
    "failing": (in_rounds(Parcel({"error": "its disk is full"})), "no answer can be used"),
}


@dataclass
class Counting(LocalPost):
    """It counts how often each site is asked in a round."""

    times: dict[tuple[str, int], int] = field(default_factory=dict)

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        for node, request in requests.items():
            if request.header["kind"] == "step":
                at = self.sites[node].settings.name, request.header["round"]
                self.times[at] = self.times.get(at, 0) + 1
        return super().ask(requests, deadline_s)


def run(settings, where: Path, faults: dict[str, Fault], **more) -> tuple[dict, Counting]:
    post = Counting(make_sites(settings, where / "sites"), faults, **more)
    return Coordinator(settings, post, where / "out", echo=lambda line: None).run(), post


def state(settings, where: Path):
    return checkpoint.load(where / "out" / "checkpoints", "fedavg", digest=settings.digest())


@pytest.mark.parametrize("case", WRONG)
def test_where_the_one_that_is_asked_fails_the_others_go_on(tmp_path, case):
    """As if its rounds were not there. Who has answered is not waited for; who was waited for in vain is not again."""
    fault, why = WRONG[case]
    began = time.monotonic()
    _, post = run(ONE, tmp_path, {NAME: fault})
    alone = [round for round, i in enumerate(ASKED, 1) if i == ILL]
    assert len(alone) > 1
    log = log_of(tmp_path)
    for round in alone:
        assert f"round {round} goes no further: {why}, of {NAME}; 5 other sites are there for the next" in log
    assert log.count("goes no further") == len(alone)
    assert log.count("sites are waited for") == (case == "silent")
    assert (post.times[NAME, alone[0]] > 1) == (case == "silent")
    assert [post.times[NAME, round] for round in alone[1:]] == [1] * (len(alone) - 1)
    assert f"round {ROUNDS} of {ROUNDS} is done" in log
    assert time.monotonic() - began < 60
    expert = state(ONE, tmp_path).server["expert"]
    assert float(expert.abs().max()) < 100
    run(ONE, tmp_path / "other", {NAME: WRONG["silent" if case != "silent" else "failing"][0]})
    assert torch.equal(expert, state(ONE, tmp_path / "other").server["expert"])


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("when", [3, 9])
def test_a_run_that_is_started_again_ends_as_one_that_was_not(tmp_path, case, when):
    fault, _ = WRONG[case]
    run(ONE, tmp_path / "other", {NAME: fault})
    post = LocalPost(make_sites(ONE, tmp_path / "sites"), {NAME: fault}, stop_after=when)
    with pytest.raises(Stopped):
        Coordinator(ONE, post, tmp_path / "out", echo=lambda line: None).run()
    post.stop_after = None
    Coordinator(ONE, post, tmp_path / "out", echo=lambda line: None).run()
    first, second = state(ONE, tmp_path / "other"), state(ONE, tmp_path)
    assert torch.equal(first.server["expert"], second.server["expert"])
    bases = [[member["base"] for member in found.meta["members"]] for found in (first, second)]
    assert bases[0] == bases[1]


def test_asked_one_by_one_sites_that_have_all_diverged_end_the_run(tmp_path):
    """Once more than half have said so, whether or not the coordinator was started again between."""
    faults = {f"client-0{i}": DIVERGED for i in range(6)}
    needed = next(n for n in range(1, ROUNDS + 1) if len(set(ASKED[:n])) == 4)
    with pytest.raises(DivergedError, match=rf"round {needed}: training has diverged at 4 of 6 sites"):
        run(ONE, tmp_path, faults)
    kept = state(ONE, tmp_path)
    assert kept.meta["round"] == needed - 1
    assert sum(member["diverged"] for member in kept.meta["members"]) == 3
    post = LocalPost(make_sites(ONE, tmp_path / "again"), faults)
    with pytest.raises(DivergedError, match=rf"round {needed}: training has diverged at 4 of 6 sites"):
        Coordinator(ONE, post, tmp_path / "out", echo=lambda line: None).run()


@dataclass
class Away(LocalPost):
    """All but one are away for one try of round 1."""

    gone: bool = True

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        if self.gone and any(request.header.get("round") == 1 for request in requests.values()):
            self.gone = False
            requests = {node: request for node, request in requests.items() if node == 100}
        return super().ask(requests, deadline_s)


def test_one_that_alone_answers_and_has_diverged_does_not_speak_for_all(tmp_path):
    post = Away(make_sites(ALL, tmp_path / "sites"), {"client-00": DIVERGED})
    summary = Coordinator(ALL, post, tmp_path / "out", echo=lambda line: None).run()
    assert "round 1: training has diverged at 1 of 6 sites; sites are waited for, 0.3 s" in log_of(tmp_path)
    assert summary["rounds_absent"] == [ALL.rounds, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("n", [3, 4])
def test_more_than_half_of_all_have_to_say_so(tmp_path, n):
    """The others are silent: they may have diverged, or not."""
    faults = {f"client-0{i}": DIVERGED if i < n else in_rounds(None) for i in range(6)}
    kind, said = (DivergedError, "round 1: ") if n == 4 else (UserError, "")
    with pytest.raises(kind, match=f"{said}training has diverged at {n} of 6 sites") as caught:
        run(ALL, tmp_path, faults)
    assert isinstance(caught.value, DivergedError) == (n == 4)


def test_under_masks_a_round_that_too_few_answer_is_left_out(tmp_path):
    three = settings_of("fedavg", participation=0.5).model_copy(update={"rounds": 4, "wait_s": 0.3})
    settings = masked(three, sites=6)
    asked = [participants(6, 0.5, 0, round) for round in range(1, 5)]
    ill = asked[0][:2]  # of three, and two are needed
    rounds = [round for round, ids in enumerate(asked, 1) if set(ill) <= set(ids)]
    assert len(rounds) < 4
    run(settings, tmp_path, {f"client-0{i}": in_rounds(None) for i in ill})
    log = log_of(tmp_path)
    assert log.count("goes no further: no sum of 'train': 1 site") == len(rounds)
    assert "round 1 goes no further: no sum of 'train': 1 site answered, and masks need 2 of 3, of client-0" in log
    assert "the end is done" in log


def test_who_answers_every_second_time_is_waited_for_twice_in_a_run():
    heard = Heard(Roster(2, print, members=[Member("a", 9), Member("b", 9)]))
    waited = 0
    for _ in range(6):
        heard.begin()
        waited += heard.worth_waiting([0])
        heard.in_vain([0])
        heard.begin()
        heard.note({0: Parcel({})})
    assert waited == MOST_WAITS
    heard.begin()
    assert heard.worth_waiting([1])
