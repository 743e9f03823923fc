"""What a coordinator could do about masked sums, and that it reads no site's numbers; and where it is trusted."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import noted
from local_post import federation_settings, make_sites, parts_of
from spying import SLOTS, Refusal, Spy, own_numbers

from federations import gaussian_scenario
from fedgmi.deploy.masks import tries
from fedgmi.deploy.settings import FederationSettings
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.sums import FILE
from fedgmi.protocol.wire import Parcel

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
D, N, SECRET = 8, 4, "a word among us sites"
SCENARIO = gaussian_scenario(N, 40, separation=4.0)
SCALE = {"sketch/mean": torch.zeros(D), "sketch/std": torch.ones(D)}
ALL = range(N)
METHOD = {"n_components": 3, "codewords": 6, "kmeans_rounds": 2, "judge_turns": 2, "personal": False}


def federation(epsilon: float | None = 1.0, **changes: Any) -> FederationSettings:
    method = METHOD | ({} if epsilon is None else {"epsilon": epsilon})
    return federation_settings(SCENARIO, communication={"secure": "masks"}, method=method, **changes)


def spied(where: Path, **own: Any) -> Spy:
    """A coordinator that knows federation.toml, and four sites that share a text."""
    own = {"mask_secret": SECRET} | own
    sites = make_sites(federation(), where, SCENARIO)
    return Spy({i: with_own(sites[100 + i], **own) for i in ALL})


def with_own(site: Site, **own: Any) -> Site:
    return replace(site, settings=site.settings.model_copy(update=own))


def centres(seed: int = 0) -> dict[str, torch.Tensor]:
    drawn = 0.5 + 0.1 * torch.randn(6, D, generator=torch.Generator().manual_seed(seed))
    return SCALE | {"sketch/centres": drawn}


def prepared(spy: Spy, run: str, among=ALL) -> None:
    agreement = spy.agree(among, run)
    spy.sum("features", 0, {}, among, agreement, run=run)
    spy.sum("spread", 1, SCALE, among, agreement, run=run)


RUN = "0123456789abcdef"


@pytest.mark.parametrize("forget", ["nothing", "keys", "process"])
def test_an_exchange_asked_again_with_one_site_less_is_refused(tmp_path, forget):
    """New keys, another process, keys that were lost: what was told is remembered. The same sites may sum it again."""
    spy = spied(tmp_path)
    first = spy.sum("features", 0, {}, ALL)
    if forget == "keys":
        for path in tmp_path.glob("*/runs/*/masks.json"):
            path.unlink()
    if forget == "process":
        spy.sites = {i: Site(**parts_of(site)) for i, site in spied(tmp_path).sites.items()}
    with pytest.raises(Refusal, match="round 0, exchange 0: its numbers were summed over other sites"):
        spy.sum("features", 0, {}, [0, 1, 2])
    again = spy.sum("features", 0, {}, ALL)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert [line for line in spy.sites[0].audit().refusals() if "summed over other sites" in line["why"]]


def test_a_drop_out_that_is_a_lie_is_refused_likewise(tmp_path):
    """All messages are there, and in a second try the coordinator says that one is not."""
    spy = spied(tmp_path)
    spy.sum("features", 0, {}, ALL)
    with pytest.raises(Refusal, match="summed over other sites"):
        spy.sum("features", 0, {}, ALL, answered=[0, 1, 3])


def moved(asked: dict[str, torch.Tensor], by: float, centre: int) -> dict[str, torch.Tensor]:
    found = asked["sketch/centres"].clone()
    found[centre] += by
    return asked | {"sketch/centres": found}


NUDGES = {"the same centres": (0.0, 0), "a centre moved by next to nothing": (1e-7, 0), "one that moves": (0.02, 5)}


@pytest.mark.parametrize("how", NUDGES)
def test_the_same_cells_in_the_next_exchange_are_refused_over_other_sites(tmp_path, how):
    """k-means is asked twice. Its cells' sums are the same numbers again, all of them or those of cells far away."""
    spy = spied(tmp_path)
    prepared(spy, RUN)
    spy.sum("k-means", 2, centres(), ALL)
    with pytest.raises(Refusal, match="the same numbers were summed over other sites"):
        spy.sum("k-means", 3, moved(centres(), *NUDGES[how]), [0, 1, 2])


def test_another_run_over_other_sites_gets_no_sum_of_the_same_numbers(tmp_path):
    """Whatever index and name the coordinator gives them there."""
    spy = spied(tmp_path)
    spy.sum("features", 0, {}, ALL)
    turned = Spy({0: spy.sites[2], 1: spy.sites[0], 2: spy.sites[1]})
    with pytest.raises(Refusal, match="the same numbers were summed over other sites"):
        turned.sum("features", 0, {}, [0, 1, 2], run="f" * 16)
    whole = Spy({0: spy.sites[2], 1: spy.sites[0], 2: spy.sites[1], 3: spy.sites[3]})
    assert whole.sum("features", 0, {}, ALL, run="f" * 16)


def test_what_was_summed_is_no_longer_known_where_the_file_is_damaged_and_nothing_is_told(tmp_path):
    spy = spied(tmp_path)
    spy.sum("features", 0, {}, ALL)
    path = spy.sites[0].where / FILE
    for text in ("{", '{"sets": [], "exchanges": {}, "parts": {"a": 0}}', '{"sets": 3, "exchanges": {}, "parts": {}}'):
        path.write_text(text)
        with pytest.raises(Refusal, match=r"log\.txt says more"):
            spy.sum("features", 0, {}, ALL)
        assert FILE in noted(spy.sites[0])


@pytest.mark.parametrize(
    ("among", "said"),
    [([0], "1 site has keys"), ([0, 1], "2 sites have keys")],
)
def test_sums_of_one_or_two_have_no_keys(tmp_path, among, said):
    with pytest.raises(Refusal, match=said):
        spied(tmp_path).sum("features", 0, {}, among)


@pytest.mark.parametrize("answered", [[0], [0, 1]])
def test_sums_of_one_or_two_of_four_stay_closed(tmp_path, answered):
    spy = spied(tmp_path)
    with pytest.raises(Refusal, match="expected 3 or more"):
        spy.sum("features", 0, {}, ALL, spy.agree(ALL), answered=answered)
    with pytest.raises(Refusal, match="expected 3 or more"):
        spy.sum("features", 0, {}, answered, spy.agree(ALL))


def test_a_thousand_requests_to_sites_that_insist_give_no_count_and_no_row_of_one_site(tmp_path):
    """Runs, rounds, indices, sets of sites and centres around a row are the coordinator's to choose.

    All that opens is over the same four sites, so that no difference is of fewer; and what is seen singly has noise.
    """
    spy, draws = spied(tmp_path, only_masked=True, same_sites=True), torch.Generator().manual_seed(0)
    row = spy.sites[0].train.x[7].flatten()
    attempts, refused = 0, 0
    while spy.asked < 1000:
        run, size = f"{attempts // 4:016x}", 1 + attempts % N
        among = ALL if attempts % 3 == 0 else sorted(torch.randperm(N, generator=draws)[:size].tolist())
        around = centres(attempts)
        around["sketch/centres"][0] = row + 10.0 ** -float(attempts % 5) * torch.randn(D, generator=draws)
        step, leaves = (("features", {}), ("spread", SCALE), ("k-means", around), ("k-means", around))[attempts % 4]
        attempts += 1
        try:
            spy.sum(step, (attempts - 1) % 4, leaves, among, run=run)
        except Refusal:
            refused += 1
    assert len(spy.opened) > 5
    assert refused > 50
    assert {there for there, _ in spy.opened} == {tuple(ALL)}
    alone = [own_numbers(spy.sites[i], "features", {}, N) for i in ALL]
    for _, found in spy.opened:
        for one in alone:
            assert not [name for name in one if name in found and torch.equal(found[name], one[name])]


def test_same_sites_refuses_what_would_else_be_summed_over_others(tmp_path):
    """Other numbers over other sites: honest after a failure, and a difference that says much to whoever chose both.

    This holds without same_sites, and docs/privacy.md says so.
    """
    for same in (False, True):
        spy = spied(tmp_path / str(same), same_sites=same)
        prepared(spy, RUN)
        spy.sum("k-means", 2, centres(), ALL)
        if same:
            with pytest.raises(Refusal, match="same_sites is set"):
                spy.sum("k-means", 3, centres(9), [0, 1, 2])
            continue
        assert spy.sum("k-means", 3, centres(9), [0, 1, 2])


# --- without end ------------------------------------------------------------------------------------------------------


def keys(spy: Spy, i: int = 0, slots: int = SLOTS, run: str = RUN, **place: int) -> Parcel:
    """An answer to a request for fresh keys."""
    asking = {"ask": "keys", "epoch": secrets.token_hex(8), "slots": slots}
    return spy.ask(i, "masks", {}, run=run, masks=asking, **{"round": 0, "number": 0} | place)


def test_keys_are_for_exchanges_that_the_program_has_and_for_as_many_sums_as_an_agreement(tmp_path):
    spy = spied(tmp_path)
    spy.ask(0, "hello", {})
    last = len(spy.sites[0].method().program.prepare) - 1
    assert keys(spy, number=last)
    for place, said in (
        ({"number": last + 1}, rf"number = {last + 1}, expected 0 to {last}"),
        ({"round": spy.sites[0].federation.rounds + 2}, "the request has round = 4, expected 0 to 3"),
        ({"id": N}, f"the request has id = {N}, expected 0 to {N - 1}"),
    ):
        with pytest.raises(Refusal, match=said):
            keys(spy, **place)
    with pytest.raises(Refusal, match="keys for 33 sums are asked for, expected 1 to 32"):
        keys(spy, slots=33)


def test_masks_are_for_a_site_s_own_index_and_for_exchanges_that_may_be_asked(tmp_path):
    """What was answered may be tried again, and what follows it; not what the preparation has left behind."""
    spy = spied(tmp_path)
    agreement = spy.agree(ALL)
    spy.sum("features", 0, {}, ALL, agreement)
    spy.sum("k-means", 2, centres(), ALL, agreement)
    assert keys(spy, number=0)
    assert keys(spy, number=2)
    assert keys(spy, number=3)
    with pytest.raises(Refusal, match=r"masks are asked for in exchange \[0, 1\] of the preparation, which is over"):
        keys(spy, number=1)
    with pytest.raises(Refusal, match="the request is for site 1, and this one is 0 in this run"):
        keys(spy, id=1)


def test_a_run_that_the_site_s_limits_do_not_allow_gets_no_keys(tmp_path):
    spy = spied(tmp_path, max_runs=1)
    spy.sum("features", 0, {}, ALL)
    spy.ask(0, "hello", {}, run="e" * 16)
    with pytest.raises(Refusal, match="its own limits do not allow it"):
        keys(spy, run="e" * 16)
    assert "max_runs is 1" in noted(spy.sites[0])


def test_shares_of_a_sum_are_told_in_its_own_exchange(tmp_path, monkeypatch):
    spy, asked = spied(tmp_path), Spy.ask

    def elsewhere(self: Spy, i: int, kind: str, leaves: Any, **more: Any) -> Parcel:
        moved = {"number": 1} if more.get("masks", {}).get("ask") == "unmask" else {}
        return asked(self, i, kind, leaves, **more | moved)

    monkeypatch.setattr(Spy, "ask", elsewhere)
    with pytest.raises(Refusal, match="shares are asked for of a sum of another exchange"):
        spy.sum("features", 0, {}, ALL)


@pytest.mark.parametrize("each", ["under new keys", "under keys of one agreement"])
def test_an_exchange_is_tried_so_often_and_no_more_whatever_process_asks(tmp_path, monkeypatch, each):
    """A site makes its whole step for each try: that had no end. Other exchanges have tries of their own."""
    monkeypatch.setattr(tries, "MOST_TRIES", 3)
    spy = spied(tmp_path)
    agreement = None if each == "under new keys" else spy.agree(ALL)
    for _ in range(3):
        spy.sum("features", 0, {}, ALL, agreement)
    spy.sites = {i: Site(**parts_of(site)) for i, site in spied(tmp_path).sites.items()}
    with pytest.raises(Refusal, match=r"exchange \[0, 0\] was asked 3 times in a day under other keys"):
        spy.sum("features", 0, {}, ALL, agreement)
    if agreement is None:
        assert spy.sum("spread", 1, SCALE, ALL, spy.agree(ALL, number=1))
    later = time.time() + tries.DAY + 1
    monkeypatch.setattr(tries.time, "time", lambda: later)
    assert spy.sum("features", 0, {}, ALL)


# --- keys of the coordinator's own ------------------------------------------------------------------------------------


def playing(where: Path, secret: str | None, known: bool) -> Spy:
    """The coordinator plays all sites but the first."""
    spy = spied(where, mask_secret=secret)
    own: dict[int, Any] = dict.fromkeys(range(1, N))
    return Spy(spy.sites, secret if known else None, own)


def test_keys_of_the_coordinator_s_own_are_refused_with_a_secret_of_the_sites(tmp_path):
    with pytest.raises(Refusal, match=r"the keys of site 1 \(counted from 0\) lack the tag of the sites' secret"):
        playing(tmp_path, SECRET, known=False).sum("features", 0, {}, ALL)


@pytest.mark.parametrize("secret", [None, SECRET])
def test_who_has_the_secret_or_where_there_is_none_is_trusted(tmp_path, secret):
    """It plays all other sites, and reads the one that is left. docs/privacy.md says so."""
    spy = playing(tmp_path, secret, known=True)
    found = spy.sum("features", 0, {}, ALL)
    alone = own_numbers(spy.sites[0], "features", {}, N)
    assert all(torch.equal(found[name], alone[name]) for name in alone)


@pytest.mark.parametrize("how", ["of another agreement", "of another site", "twice"])
def test_right_keys_in_a_wrong_place_are_refused(tmp_path, how):
    """A site's keys of an earlier agreement, which the coordinator has the shares of; keys under another index."""
    spy = spied(tmp_path)
    old = spy.agree(ALL).members
    epoch = "e" * 16
    asking = {"ask": "keys", "epoch": epoch, "slots": SLOTS}
    at = {"round": 0, "number": 0}
    members = {i: spy.ask(i, "masks", {}, masks=asking, **at).header["keys"] for i in ALL}
    if how == "of another agreement":
        members[1] = old[1].to_json()
    elif how == "of another site":
        members[1], members[2] = members[2], members[1]
    else:
        members[2] = members[1]
    asking = {"ask": "shares", "epoch": epoch, "members": {str(i): keys for i, keys in members.items()}}
    with pytest.raises(Refusal, match=r"lack the tag|two sites have the same"):
        spy.ask(0, "masks", {}, masks=asking, **at)


# --- what is seen singly ----------------------------------------------------------------------------------------------


def test_a_site_that_insists_takes_no_part_without_masks_or_noise(tmp_path):
    spy = spied(tmp_path, only_masked=True)
    for settings, said in (
        (federation(None), "method.epsilon is unset: the histogram of words is seen singly"),
        (
            federation_settings(SCENARIO, method=METHOD | {"epsilon": 1.0}),
            "only_masked is set, and federation.toml has",
        ),
    ):
        other = Spy({i: replace(site, federation=settings) for i, site in spy.sites.items()})
        with pytest.raises(Refusal, match="its own limits do not allow it"):
            other.agree(ALL)
        assert said in noted(other.sites[0])


@pytest.mark.parametrize("insists", [False, True])
def test_a_predictor_of_the_coordinator_s_choosing_counts_nothing(tmp_path, insists):
    """It says the same class always: its accuracy times the rows held out is how many are of that class."""
    settings = federation_settings(SCENARIO, communication={"secure": "masks"}, method={"name": "fedavg"})
    sites = make_sites(settings, tmp_path, SCENARIO)
    spy = Spy({i: with_own(sites[100 + i], mask_secret=SECRET, only_masked=insists) for i in ALL}, SECRET)
    with pytest.raises(Refusal, match="round 0 has no exchange"):
        spy.agree(ALL)
    expert = {"expert": torch.zeros(1, 90)}
    with pytest.raises(Refusal, match="no step of this run was answered here"):
        spy.ask(0, "finish", expert, round=3, base=None, diagnosis=None)
    spy.sum("train", 0, expert, ALL, round=settings.rounds)
    reply = spy.ask(0, "finish", expert, round=settings.rounds + 1, base=None, diagnosis=None)
    names = {entry["name"] for entry in reply.header["layout"]}
    assert names == set() if insists else "replies/accuracy" in names
    results = spy.sites[0].where / "results"
    assert json.loads((results / "metrics.json").read_text())["metrics"]["accuracy"] >= 0
