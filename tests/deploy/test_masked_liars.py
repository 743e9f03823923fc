"""Under masks one site that lies about others bars nobody, and ends no run that the others can go on with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from local_post import Fault, log_of, make_sites
from test_masked_sites import AVERAGE, SCENARIO, changing, deployed, mute

from fedgmi.deploy.coordinator.claims import Claims
from fedgmi.deploy.masks import shamir
from fedgmi.deploy.masks.keys import Public, to_bytes, to_text, who_is
from fedgmi.deploy.masks.unmasking import Unopened, recovered
from fedgmi.errors import UserError
from fedgmi.protocol.wire import Parcel

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
LIES: dict[str, dict[str, Any]] = {
    "shares do not open": {"unopened": [0]},
    "summed with one other": {"summed": [1, 2]},
    "summed with a stranger": {"summed": [0, 1, -1]},
    "summed with all": {"summed": [0, 1, 2, 3]},
    "nonsense": {"summed": {"0": 1}, "unopened": [True, "0"]},
}


def wrong(share: bytes, n: int) -> bytes:
    """Another for each n, or two wrong ones could make each other right."""
    return share[:-1] + bytes([share[-1] ^ (1 << n)])


def absent(summary: dict[str, Any]) -> list[int]:
    return list(summary["rounds_absent"])


def while_another_is_silent(lie: dict[str, Any], tries: int) -> dict[str, Fault]:
    """client-01 lies when sums are opened, and client-03 does not answer the first messages of round 1."""
    silent: list[str] = []

    def away(request: Parcel, reply: Parcel) -> Parcel | None:
        asked = request.header["kind"] == "step" and request.header["round"] == 1
        if asked and len(silent) < tries:
            silent.append("")
            return None
        return reply

    return {"client-01": changing("unmask", lambda header: {"error": "no"} | lie), "client-03": away}


@pytest.mark.parametrize("lie", LIES)
def test_one_that_says_what_nobody_else_says_is_left_out_of_the_shares(tmp_path, lie):
    """The other three tell theirs, which are enough: nothing is different."""
    faults = {"client-01": changing("unmask", lambda header: {"error": "no"} | LIES[lie])}
    summary, server, _ = deployed(AVERAGE, tmp_path / "a", faults)
    _, expected, _ = deployed(AVERAGE, tmp_path / "b")
    assert absent(summary) == [0, 0, 0, 0]
    assert torch.equal(server["expert"], expected["expert"])


@pytest.mark.parametrize("lie", LIES)
def test_a_liar_beside_a_silent_site_holds_up_a_round_no_longer_than_that_is_silent(tmp_path, lie):
    """Of three of four that answered one tells no shares, and three are needed. Nobody is barred for its word."""
    summary, _, _ = deployed(AVERAGE, tmp_path, while_another_is_silent(LIES[lie], tries=1))
    said = log_of(tmp_path)
    assert "client-00 is absent" not in said
    assert "client-02 is absent" not in said
    assert absent(summary)[0] == absent(summary)[2] == 0
    assert "no sum of 'train': the masks of " in said


def test_who_tells_no_shares_is_named(tmp_path):
    settings = AVERAGE.model_copy(update={"wait_s": 0.3})
    faults = {"client-01": changing("unmask", lambda header: {"told": {}}), "client-03": mute}
    with pytest.raises(UserError, match=r"and no 3 of them give it; client-01 told none in round 1"):
        deployed(settings, tmp_path / "none", faults)

    def quiet(request: Parcel, reply: Parcel) -> Parcel | None:
        return None if request.header["kind"] == "masks" and request.header["masks"]["ask"] == "unmask" else reply

    with pytest.raises(UserError, match=r"and no 3 of them give it; client-01 told none in round 1"):
        deployed(settings, tmp_path / "quiet", {"client-01": quiet, "client-03": mute})


def test_an_accuser_and_the_accused_are_both_named_where_it_is_word_against_word(tmp_path):
    settings = AVERAGE.model_copy(update={"wait_s": 0.3})
    faults = {"client-01": changing("unmask", lambda header: {"error": "no", "unopened": [0]}), "client-03": mute}
    with pytest.raises(UserError, match="client-01 alone says that shares of client-00 do not open"):
        deployed(settings, tmp_path, faults)


def test_a_site_that_shares_another_secret_than_its_own_is_named(tmp_path):
    """Its shares open, and give nothing. The others have told theirs, so the sum waits for right ones."""
    settings = AVERAGE.model_copy(update={"wait_s": 0.3})
    seen: list[str] = []

    def others_shares(request: Parcel, reply: Parcel) -> Parcel:
        """As all open them: of site 1 wrong ones."""
        asked = request.header["kind"] == "masks" and request.header["masks"]["ask"] == "unmask"
        if not asked or "told" not in reply.header:
            return reply
        seen.append("")
        told = dict(reply.header["told"])
        told["1"] = to_text(wrong(to_bytes(told["1"]), len(seen) % 4))
        return Parcel({"told": told})

    every = dict.fromkeys((f"client-0{i}" for i in range(4)), others_shares)
    with pytest.raises(UserError, match="client-01: its shares of its secrets are wrong"):
        deployed(settings, tmp_path, every)


@pytest.mark.parametrize(
    ("n_wrong", "n_told", "keeps_its_own", "blamed"),
    [(2, 4, False, True), (1, 3, False, False), (4, 4, False, True), (3, 3, True, True), (0, 2, False, False)],
)
def test_a_site_is_blamed_where_one_liar_cannot_have_done_it(n_wrong, n_told, keeps_its_own, blamed):
    """Three shares of four give the secret of site 3. The first of those that came are wrong."""
    secret, t = bytes(range(32)), 3
    cut = shamir.shares(secret, [bytes([7]) * 40, bytes([9]) * 40], [1, 2, 3, 4])
    places = [1, 2, 3] if keeps_its_own else [1, 2, 3, 4][:n_told]
    came = {place: wrong(cut[place], n) if n < n_wrong else cut[place] for n, place in enumerate(places)}
    with pytest.raises(Unopened) as error:
        recovered(3, came, t, lambda found: found == secret, told=keeps_its_own or n_told == 4)
    assert error.value.blamed == blamed


def test_claims_that_cannot_be_are_none():
    claims = Claims()
    for said in ({"summed": [0, 2]}, {"summed": [1]}, {"summed": [1, 9]}, {"summed": 3}, {"unopened": [1, -1]}):
        claims.note(1, said, 4)
    assert claims == Claims()
    assert claims.summed([]) == ()
    claims.note(1, {"summed": [2, 1, -1]}, 4)
    assert claims.summed([]) == ()
    claims.note(2, {"summed": [1, -1, 2]}, 4)
    assert claims.summed([]) == (-1, 1, 2)


SECRET = "a word among us sites"


@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("how", ["another's name", "a wrong tag"])
def test_one_whose_keys_all_refuse_is_left_out_of_the_agreement(tmp_path, how, secret):
    """All refuse an agreement with them. In the first one nobody knows whose a name is, where sites have a secret."""
    seen: list[str] = []

    def fault(request: Parcel, reply: Parcel) -> Parcel:
        header = request.header
        if header["kind"] != "masks" or header["masks"]["ask"] != "keys" or not seen:
            seen.extend([""] * (header["kind"] == "step" and header["round"] == 1))
            return reply
        keys = dict(reply.header["keys"])
        if how == "a wrong tag":
            keys["tag"] = to_text(bytes(32))
        else:
            keys["who"] = to_text(who_is("client-00", secret))
            keys.pop("tag", None)
            if secret is not None:
                keys["tag"] = to_text(Public.from_json(keys).tagged(secret, header["masks"]["epoch"], 1))
        return Parcel({"keys": keys})

    def once(request: Parcel, reply: Parcel) -> Parcel | None:
        """Silent at the end of round 1, so that keys are agreed on anew."""
        asked = request.header["kind"] == "step" and request.header["round"] == 1
        return None if asked else reply

    sites = make_sites(AVERAGE, tmp_path / "sites", SCENARIO)
    told = {"mask_secret": secret}
    own = {n: replace(site, settings=site.settings.model_copy(update=told)) for n, site in sites.items()}
    summary, _, _ = deployed(AVERAGE, tmp_path, {"client-01": fault, "client-02": once}, own)
    assert absent(summary)[0] == absent(summary)[3] == 0
    assert absent(summary)[1] > 0
