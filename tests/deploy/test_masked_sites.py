"""A federation whose sums are masked, over a post: the plain run's numbers, whoever drops out; nothing seen singly."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from local_grid import LocalGrid
from local_post import LocalPost, Stopped, as_pictures, log_of, make_sites, max_difference, parts_of, settings_of
from tables import table_federation, write_site

from federations import gaussian_scenario
from fedgmi import flower_app
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.flower import GridPost
from fedgmi.deploy.local.dry_run import dry_run
from fedgmi.deploy.masks.keys import SEALED, to_text
from fedgmi.deploy.settings import SLOTS, FederationSettings, read
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.site_check import check, leaves, never, tells_proportions, warning
from fedgmi.errors import ConfigError, LimitError, UserError
from fedgmi.protocol import in_process as in_process_module
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.wire import Parcel, hash_of
from fedgmi.storage import checkpoint

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
SCENARIO = gaussian_scenario(4, 40, separation=4.0)
N = len(SCENARIO.federation.clients)
MASKS = {"communication": {"secure": "masks"}}


def masked(settings: FederationSettings, **changes: object) -> FederationSettings:
    return FederationSettings.model_validate(settings.model_dump(exclude_unset=True) | {"sites": N} | MASKS | changes)


def deployed(settings, where: Path, faults=None, sites=None):
    """The run over sites → (summary, its last state, post)."""
    post = LocalPost(sites or make_sites(settings, where / "sites", SCENARIO), faults or {})
    summary = Coordinator(settings, post, where / "out", echo=lambda line: None).run()
    found = checkpoint.load(where / "out" / "checkpoints", settings.method.name, digest=settings.digest())
    return summary, found.server, post


def in_process(settings):
    """The same run in this process."""
    setup = settings.setup()
    method = setup.method()
    clients = tuple(as_pictures(client) for client in SCENARIO.federation.clients)
    held = tuple(as_pictures(client) for client in SCENARIO.federation.validation)
    transport = InProcess(clients, method.program, validation=held, coding=setup.coding())
    end = run_rounds(
        method.name,
        method.program,
        transport,
        Progress(method.program.init()),
        n_clients=len(clients),
        rounds=settings.rounds,
        participation=settings.method.participation,
        seed=settings.seed,
    )
    return end.server, transport


CHOICES = {"fedavg": {"name": "fedavg"}, "default": {}, "plain": {"preset": "plain"}, "fedem": {"name": "fedem"}}


@pytest.mark.parametrize("choice", CHOICES)
def test_equals_the_plain_run(tmp_path, choice, monkeypatch):
    """Bit for bit the simulation with masks, and the plain run within rounding."""
    monkeypatch.setattr(in_process_module, "chunks", lambda clients, ids: [(i,) for i in ids])  # as sites work
    plain = settings_of(**CHOICES[choice]).model_copy(update={"sites": N})
    settings = masked(plain)
    summary, server, _ = deployed(settings, tmp_path)
    simulated, _ = in_process(settings)
    expected, _ = in_process(plain)
    assert server.keys() == simulated.keys()
    assert [name for name in server if not torch.equal(server[name], simulated[name])] == []
    for leaf in ("expert", "density"):
        if leaf in server:
            assert max_difference(server[leaf], expected[leaf]) < 1e-4
    assert summary["proportions"] is None
    assert summary["rounds_absent"] == [0] * N


SKETCH = settings_of(preset="sketch").model_copy(update={"sites": N})
MASKED = masked(SKETCH)
AVERAGE = masked(settings_of("fedavg"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> tuple[dict[str, Any], LocalPost, Path]:
    """A run in which nothing went wrong."""
    where = tmp_path_factory.mktemp("masked")
    summary, _, post = deployed(MASKED, where)
    return summary, post, where


def test_what_is_seen_singly_is_said_and_is_the_histogram_alone(clean):
    """Every other number of a reply is a whole number of 64 bits, and no reply has proportions."""
    _, post, where = clean
    assert "sums are masked (communication.secure): seen singly is 'histograms' alone" in log_of(where)
    singly = set()
    for (_, request), (_, reply) in zip(post.asked, post.replied, strict=True):
        if request.header["kind"] != "step" or not reply.header["layout"]:
            continue
        names = {entry["name"] for entry in reply.header["layout"] if entry["dtype"] != "int64"}
        singly |= names
        assert ("masks" in request.header) == (not names)
    assert singly == {"replies/histogram"}


def test_masked_numbers_are_uniform_in_a_run(clean):
    """χ² of the 256 values of a byte, deviation 22.6, over all masked replies of one site."""
    _, post, _ = clean
    found = [
        reply.payload
        for (name, request), (_, reply) in zip(post.asked, post.replied, strict=True)
        if name == "client-02" and request.header["kind"] == "step" and "masks" in request.header
    ]
    counts = torch.cat(found).long().bincount(minlength=256).double()
    expected = counts.sum() / 256
    assert counts.sum() > 10_000
    assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 5 * 22.6


def test_the_ledger_has_keys_shares_and_what_takes_masks_off(clean):
    """Every byte that was sent and received but for greetings and results."""
    summary, post, _ = clean
    counted = [
        parcel.n_bytes
        for told in (post.asked, post.replied)
        for (_, request), (_, parcel) in zip(post.asked, told, strict=True)
        if request.header["kind"] in ("step", "masks")
    ]
    assert summary["bytes_down"] + summary["bytes_up"] == sum(counted)
    kinds = [request.header["masks"]["ask"] for _, request in post.asked if request.header["kind"] == "masks"]
    sums = sum("masks" in r.header for _, r in post.asked if r.header["kind"] == "step")
    assert kinds.count("unmask") == sums
    assert kinds.count("keys") == kinds.count("shares") == N * math.ceil(sums / N / SLOTS)


def test_keys_stay_at_the_site_for_its_own_eyes(clean):
    _, post, where = clean
    found = list((where / "sites").glob("*/runs/*/masks.json"))
    assert len(found) == N
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}
    masters = [json.loads(path.read_text())["master"] for path in found]
    said = json.dumps([parcel.header for _, parcel in post.replied + post.asked])
    assert not [master for master in masters if master in said]


def silent_at(name: str, number: int, round: int = 0, kind: str = "step"):
    """A fault: no answer to one exchange, which the site has made all the same."""

    def fault(request: Parcel, reply: Parcel) -> Parcel | None:
        header = request.header
        asks = header["kind"] == kind and header.get("round") == round and header.get("number") == number
        return None if asks and (kind == "step" or header["masks"]["ask"] == "unmask") else reply

    return {name: fault}


def test_a_site_that_drops_out_in_mid_exchange_is_left_out_of_the_sum(tmp_path):
    """Its masks are taken off by the others' shares: the plain run whose site is silent there."""
    faults = silent_at("client-02", 3)
    summary, server, _ = deployed(MASKED, tmp_path / "masked", faults)
    _, expected, _ = deployed(SKETCH, tmp_path / "plain", faults)
    assert summary["rounds_absent"] == [0, 0, 1, 0]
    assert "client-02 is absent: no answer" in log_of(tmp_path / "masked")
    for leaf in ("expert", "density", "share"):
        assert leaf not in server or max_difference(server[leaf], expected[leaf]) < 2e-3


def test_a_site_that_drops_out_before_it_tells_its_shares_is_in_the_sum(tmp_path, clean):
    summary, server, _ = deployed(MASKED, tmp_path, silent_at("client-02", 3, kind="masks"))
    found = checkpoint.load(clean[2] / "out" / "checkpoints", "fedgmi", digest=MASKED.digest())
    assert summary["rounds_absent"] == [0] * N
    assert all(torch.equal(server[name], leaf) for name, leaf in found.server.items())


def test_fewer_than_the_threshold_are_told_and_the_round_goes_on(tmp_path):
    """Two of four answer once, and three are needed. The next try begins with new keys."""
    tries: list[str] = []

    def once(request: Parcel, reply: Parcel) -> Parcel | None:
        if request.header["kind"] == "step" and request.header["round"] == 1 and len(tries) < 2:
            tries.append("")
            return None
        return reply

    faults = {f"client-0{i}": once for i in range(2)}
    summary, _, post = deployed(AVERAGE, tmp_path, faults)
    assert "no sum of 'train': 2 sites answered, and masks need 3 of 4" in log_of(tmp_path)
    assert summary["client_accuracy"] is not None
    epochs = {r.header["masks"]["epoch"] for _, r in post.asked if "masks" in r.header}
    assert len(epochs) == 2


def test_fewer_than_the_threshold_for_good_end_the_run_with_a_sentence(tmp_path):
    settings = AVERAGE.model_copy(update={"wait_s": 0.3})
    faults = {
        f"client-0{i}": lambda request, reply: None if request.header["kind"] == "step" else reply for i in range(2)
    }
    with pytest.raises(UserError, match=r"2 sites answered, and masks need 3 of 4 in round 1, for 0\.3 s") as error:
        deployed(settings, tmp_path, faults)
    assert "(client-00: no answer; client-01: no answer). Likely fix: see that sites run" in str(error.value)


def changing(ask: str, change):
    """A fault: another answer to what masks ask, in round 1 alone."""

    def fault(request: Parcel, reply: Parcel) -> Parcel | None:
        header = request.header
        asked = header["kind"] == "masks" and header["masks"]["ask"] == ask and header["round"] == 1
        return Parcel(change(reply.header)) if asked else reply

    return fault


def junk(header):
    return {"shares": {i: to_text(bytes(SEALED * SLOTS)) for i in header["shares"]}}


NOTHING = to_text(bytes(32))
SPOILT = {
    "no keys": ("keys", lambda header: {}, "client-01 is absent: it has sent no keys and shares"),
    "keys of another length": ("keys", lambda header: {"keys": {"box": "AA=="}}, "its answer is none of masks"),
    "keys that hide nothing": (
        "keys",
        lambda header: {"keys": header["keys"] | {"box": to_text(bytes(32))}},
        "is none",
    ),
    "no shares": ("shares", lambda header: {"shares": 3}, "client-01 is absent: it has sent no keys and shares"),
    "shares for some": ("shares", lambda header: {"shares": {}}, "client-01 is absent: it has sent no keys"),
    "an error": ("keys", lambda header: {"error": "no\nroom"}, "client-01: no room"),
    "shares that nobody opens": ("shares", junk, "client-01 is absent: its shares of its secrets are wrong"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_site_that_spoils_keys_is_absent_and_the_round_goes_on(tmp_path, how):
    ask, change, said = SPOILT[how]
    summary, _, _ = deployed(AVERAGE, tmp_path, {"client-01": changing(ask, change)})
    assert said in log_of(tmp_path)
    assert summary["rounds_absent"] == [0, 1, 0, 0]


@pytest.mark.parametrize("how", ["none", "wrong", "nonsense"])
def test_shares_that_are_wrong_or_missing_of_one_site_change_nothing(tmp_path, how):
    """Three shares of four are enough, and what is public of a secret tells which three are right."""

    def change(header):
        other = to_text(bytes(33)) if how == "wrong" else "§"
        return {"told": {} if how == "none" else dict.fromkeys(header["told"], other)}

    summary, server, _ = deployed(AVERAGE, tmp_path / "a", {"client-01": changing("unmask", change)})
    _, expected, _ = deployed(AVERAGE, tmp_path / "b")
    assert summary["rounds_absent"] == [0] * N
    assert torch.equal(server["expert"], expected["expert"])


def test_a_sum_that_cannot_be_ends_the_run_with_a_sentence(tmp_path):
    """One site sends other numbers than its own, and nobody knows which."""

    def spoil(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] != "step":
            return reply
        payload = reply.payload.clone()
        payload[:] = torch.randint(0, 256, payload.shape, generator=torch.Generator().manual_seed(0))
        return Parcel(reply.header | {"hash": hash_of(payload.numpy().tobytes())}, payload)

    with pytest.raises(UserError, match=r"round 1, the sum of 'train' over 4 sites cannot be: .* masks hide which"):
        deployed(AVERAGE, tmp_path, {"client-01": spoil})


def test_shares_that_are_lost_on_the_way_are_asked_for_again(tmp_path):
    """And no message is: another site would be silent by then, and its part would be the difference of both sums."""
    seen: list[str] = []

    def fault(request: Parcel, reply: Parcel) -> Parcel | None:
        header = request.header
        if header["kind"] == "masks" and header["masks"]["ask"] == "unmask" and len(seen) < 2:
            seen.append("lost")
            return None
        return reply

    def silent(request: Parcel, reply: Parcel) -> Parcel | None:
        return None if request.header["kind"] == "step" and len(seen) == 2 and not seen.append("silent") else reply

    summary, _, post = deployed(AVERAGE, tmp_path, {"client-00": fault, "client-01": fault, "client-03": silent})
    assert "cannot be taken off: 2 shares of its secret came" in log_of(tmp_path)
    asked = [r.header["masks"] for _, r in post.asked if r.header["kind"] == "step" and r.header["round"] == 1]
    assert len(asked) == N
    assert summary["rounds_absent"] == [0, 0, 0, 1]  # silent in round 2


def stopped_at_the_end_of_a_sum(tmp_path: Path, *silent: str):
    """The coordinator's machine goes down when sites have told their shares, and nothing of the round is kept."""
    sites = make_sites(AVERAGE, tmp_path / "sites", SCENARIO)

    def down(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] == "masks" and request.header["masks"]["ask"] == "unmask":
            raise Stopped
        return reply

    with pytest.raises(Stopped):
        deployed(AVERAGE, tmp_path, {"client-02": down} | dict.fromkeys(silent, mute), sites)
    return sites


def mute(request: Parcel, reply: Parcel) -> Parcel | None:
    return None if request.header["kind"] == "step" else reply


def test_a_coordinator_that_starts_again_sums_over_the_sites_that_have_told_their_shares(tmp_path):
    """One more is there by now. It is absent in this round, for the difference would show its part."""
    sites = stopped_at_the_end_of_a_sum(tmp_path, "client-03")
    summary, server, _ = deployed(AVERAGE, tmp_path, sites=sites)
    assert summary["rounds_absent"] == [0, 0, 0, 1]
    said = log_of(tmp_path)
    assert "3 sites told shares of the same numbers before, and tell none for other sites" in said
    assert "client-03 is absent: the others told shares of the same numbers without it" in said
    _, expected, _ = deployed(AVERAGE, tmp_path / "other", silent_at("client-03", 0, round=1))
    assert torch.equal(server["expert"], expected["expert"])


def test_a_coordinator_that_starts_again_waits_for_a_site_that_was_summed(tmp_path):
    """One less is there by now: the run ends with a sentence, and goes on once it is back."""
    sites = stopped_at_the_end_of_a_sum(tmp_path)
    short = AVERAGE.model_copy(update={"wait_s": 0.3})
    with pytest.raises(UserError, match=r"tell none for other sites: .* client-00, client-01, client-02, client-03 in"):
        deployed(short, tmp_path, {"client-03": mute}, sites)
    gone = {n: site for n, site in sites.items() if n != 103}
    with pytest.raises(UserError, match="client-00, client-01, client-02, one that is not there"):
        deployed(short.model_copy(update={"min_sites": 3}), tmp_path, sites=gone)
    assert [line["why"] for line in sites[100].audit().refusals() if "summed over other sites" in line["why"]]
    summary, server, _ = deployed(AVERAGE, tmp_path / "again", sites=sites)
    _, expected, _ = deployed(AVERAGE, tmp_path / "other")
    assert summary["rounds_absent"] == [0] * N
    assert torch.equal(server["expert"], expected["expert"])


def asked_of(post: LocalPost, name: str, kind: str) -> list[Parcel]:
    return [request for asked, request in post.asked if asked == name and request.header["kind"] == kind]


def test_a_site_answers_nothing_that_would_show_its_own_numbers(tmp_path):
    """A coordinator that asks for more than the protocol has is refused, and told why in one line."""
    _, _, post = deployed(AVERAGE, tmp_path)
    site = post.sites[100]
    step, unmask = asked_of(post, "client-00", "step")[-1], asked_of(post, "client-00", "masks")[-1]

    def refused(request: Parcel, **masks: object) -> str:
        table = request.header["masks"] | masks
        return str(site.answer(Parcel(request.header | {"masks": table}, request.payload)).header["error"])

    plain = Parcel({k: v for k, v in step.header.items() if k != "masks"}, step.payload)
    assert "asks for this site's own numbers" in site.answer(plain).header["error"]
    assert "masks never serve twice" in refused(step, among=[0, 1, 2])
    assert "a sum of 2 sites, expected 3" in refused(step, slot=30, among=[0, 1])
    assert "not kept here" in refused(step, epoch="f" * 16)
    assert "both kinds of shares of one site" in refused(unmask, answered=[0, 1, 2])
    assert "has sent nothing to" in refused(unmask, slot=31)
    assert "asks for nothing that masked sums have" in refused(unmask, ask="secrets")
    assert "no table by site" in refused(unmask, sealed={"7": ""})
    assert "a name in hex" in refused(unmask, ask="keys", epoch="../../x")
    assert "keys for 100000 sums" in refused(unmask, ask="keys", slots=100_000, epoch="f" * 16)
    assert site.answer(unmask).header["told"].keys() == {"0", "1", "2", "3"}  # the honest question, once more
    assert "round 1, 2" not in site.answer(step).header.get("error", "")


def test_a_site_without_masks_knows_no_such_requests(tmp_path):
    plain = settings_of("fedavg").model_copy(update={"sites": N})
    _, _, post = deployed(plain, tmp_path)
    step = asked_of(post, "client-00", "step")[-1].header
    common = {key: step[key] for key in ("version", "federation", "run", "attempt", "round", "number", "id")}
    header = common | {"kind": "masks", "masks": {"ask": "keys"}}
    assert "federation.toml says nothing of masks" in post.sites[100].answer(Parcel(header)).header["error"]


def test_with_a_secret_of_the_sites_all_need_it(tmp_path):
    """Whoever lacks it is no site. With it everywhere the run is as ever."""
    sites = make_sites(AVERAGE, tmp_path / "sites", SCENARIO)

    def knowing(some):
        own = {n: sites[n].settings.model_copy(update={"mask_secret": "a word among us sites"}) for n in some}
        return sites | {n: replace(sites[n], settings=settings) for n, settings in own.items()}

    summary, _, _ = deployed(AVERAGE, tmp_path / "all", sites=knowing(sites))
    assert summary["rounds_absent"] == [0] * N
    sites = make_sites(AVERAGE, tmp_path / "other sites", SCENARIO)
    summary, _, _ = deployed(AVERAGE, tmp_path / "some", sites=knowing([100, 101, 102]) | {103: sites[103]})
    assert summary["rounds_absent"][:3] == [0, 0, 0]
    assert summary["rounds_absent"][3] > 0
    said = log_of(tmp_path / "some")
    assert "client-00: communication.secure: the keys of client-03 lack the tag of the sites' secret" in said
    assert "client-03 is absent: the others refuse its keys for masks" in said


def test_a_site_that_lost_its_keys_is_absent_until_the_next_round(tmp_path):
    settings = masked(settings_of("fedavg"), rounds=3)
    lost = []

    def lose(request: Parcel, reply: Parcel) -> Parcel:
        asks = request.header["kind"] == "masks" and request.header["masks"]["ask"] == "shares"
        if asks and not lost:
            lost.extend((tmp_path / "sites" / "client-02").glob("runs/*/masks.json"))
            lost[0].write_text("{")
        return reply

    summary, _, _ = deployed(settings, tmp_path, {"client-02": lose})
    assert summary["rounds_absent"] == [0, 0, 1, 0]
    assert "the keys that the request names are not kept here" in log_of(tmp_path)


def test_a_coordinator_that_starts_again_agrees_on_new_keys(tmp_path):
    sites = make_sites(AVERAGE, tmp_path / "sites", SCENARIO)
    post = LocalPost(sites, stop_after=5)
    with pytest.raises(Stopped):
        Coordinator(AVERAGE, post, tmp_path / "out", echo=lambda line: None).run()
    before = {r.header["masks"]["epoch"] for _, r in post.asked if "masks" in r.header}
    post.stop_after = None
    Coordinator(AVERAGE, post, tmp_path / "out", echo=lambda line: None).run()
    after = {r.header["masks"]["epoch"] for _, r in post.asked if "masks" in r.header}
    found = checkpoint.load(tmp_path / "out" / "checkpoints", "fedavg", digest=AVERAGE.digest())
    _, expected, _ = deployed(AVERAGE, tmp_path / "whole")
    assert not list((tmp_path / "sites").glob("*/log.txt"))  # the same sums over the same sites
    assert len(before) == 1
    assert len(after) == 2
    assert torch.equal(found.server["expert"], expected["expert"])


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("cfl", {}, r"the step '.*' of cfl cannot go with masks: the server needs its single replies"),
        ("flux", {}, r"the step 'describe' of flux cannot go with masks"),
        ("fedavg", {"robust": {"aggregation": "median"}}, "robust.aggregation: robust rules read every site's update"),
        ("fedavg", {"robust": {"max_norm": "median"}}, "robust.max_norm: robust rules read every site's update"),
        ("fedavg", {"communication": {"secure": "masks", "precision": "8"}}, "communication.precision: masks hide"),
        ("fedavg", {"communication": {"secure": "masks", "mb_per_client": 9.0}}, "communication.mb_per_client: masks"),
        ("fedavg", {"sites": 2}, "sites: masks are for 3 sites or more in every exchange, and this allows 2"),
        ("fedavg", {"min_sites": 1}, "min_sites: masks are for 3 sites or more"),
        ("fedavg", {"method": {"name": "fedavg", "participation": 0.5}}, "method.participation: masks are for 3"),
    ],
)
def test_what_masks_leave_nothing_of_is_refused_at_the_start(name, changes, said):
    with pytest.raises(ConfigError, match=said):
        masked(settings_of(name), **changes).setup().method()


def test_site_check_says_what_is_masked_and_what_is_not(tmp_path):
    text = table_federation() + '\n[communication]\nsecure = "masks"\n'
    path = write_site(tmp_path / "site-0", 0, text)
    found = check(path, path.parent / "federation.toml")
    told = list(leaves(found))
    assert [line for line in told if "seen singly though sums are masked" in line]
    assert [line for line in told if line.startswith("before the first round, masked, sums of its features")]
    assert not tells_proportions(found)
    assert "with mask_secret in every site's site.toml" in warning(found)
    assert "its histogram of codewords × label" in warning(found)


def insisting(where: Path, text: str, *keys: str) -> Path:
    path = write_site(where, 0, text)
    path.write_text("".join(f"{key} = true\n" for key in keys) + path.read_text())
    return path


WITH_MASKS = table_federation() + '\n[communication]\nsecure = "masks"\n'
WITH_NOISE = WITH_MASKS.replace("[method]", "[method]\nepsilon = 1.0")


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        (table_federation(), "only_masked", "only_masked is set, and federation.toml has no masks"),
        (table_federation(), "same_sites", "same_sites is set, and federation.toml has no masks"),
        (WITH_MASKS, "only_masked", r"method\.epsilon is unset: the histogram of words is seen singly and would be"),
    ],
)
def test_a_site_that_insists_refuses_another_federation_before_it_is_connected(tmp_path, text, key, said):
    path = insisting(tmp_path / "site", text, key)
    with pytest.raises(LimitError, match=said):
        check(path, path.parent / "federation.toml")


def test_site_check_says_what_a_site_insists_on(tmp_path):
    path = insisting(tmp_path / "site", WITH_NOISE, "only_masked", "same_sites")
    found = check(path, path.parent / "federation.toml")
    assert "whatever is seen singly has noise, but its number of rows" in warning(found)
    assert "a run waits for one that fails" in warning(found)
    assert not [line for line in leaves(found) if "accuracy" in line]
    assert [line for line in never(found) if line.startswith("how good its predictor is")]
    plain = insisting(tmp_path / "plain", WITH_NOISE)
    assert "same_sites refuses these" in warning(check(plain, plain.parent / "federation.toml"))


def test_a_dry_run_with_masks_lays_whole_numbers_on_disk(tmp_path):
    path = insisting(tmp_path / "site", WITH_NOISE, "only_masked", "same_sites")
    lines = dry_run(path, path.parent / "federation.toml", tmp_path / "would-be")
    types = {line["name"]: {leaf["dtype"] for leaf in line["leaves"]} for line in lines if line["leaves"]}
    assert types.pop("histograms") == {"int32"}
    assert types.pop("features") == {"int64"}
    assert set().union(*types.values()) == {"int64"}
    assert not [line for line in lines if line["name"] == "finish" and line["leaves"]]


class Diverging(Site):
    """A site whose message is no number, and which sees it before it is masked."""

    def _rows(self, *args, **more):
        rows = super()._rows(*args, **more)
        return replace(rows, x=rows.x * math.inf)


@pytest.mark.parametrize("how_many", [1, 4])
def test_a_model_that_runs_away_is_one_that_did_not_move(tmp_path, how_many):
    """An error would tell of one site alone what masks hide. The run goes on, and it is told where nobody moves."""
    sites = make_sites(AVERAGE, tmp_path / "sites", SCENARIO)
    for n in (101, 100, 102, 103)[:how_many]:
        sites[n] = Diverging(**parts_of(sites[n]))
    summary, server, _ = deployed(AVERAGE, tmp_path, sites=sites)
    assert summary["rounds_absent"] == [0, 0, 0, 0]
    assert server["expert"].isfinite().all()
    assert server["expert"].abs().max() < 10
    own = (sites[101].where / "log.txt").read_text()
    assert "models/expert/total do not fit into a masked sum: models that ran away went out as unmoved" in own
    assert ("no site's expert has moved" in log_of(tmp_path)) == (how_many == 4)
    assert not (sites[102].where / "log.txt").exists() or how_many == 4


def test_over_a_grid_of_flower(tmp_path):
    """Three sites with files of their own and a text that they share; keys and shares pass through Flower's records."""
    own = ("n_components", "codewords", "kmeans_rounds", "calibration_steps", "judge_turns", "warm_up_rounds")
    kept = [line for line in table_federation().splitlines() if line.partition(" = ")[0] not in own]
    text = "\n".join(kept).replace("[method]", '[method]\nname = "fedavg"')
    text += '\n[communication]\nsecure = "masks"\n'
    sites = {}
    for i in range(3):
        path = write_site(tmp_path / f"site-{i}", i, text)
        path.write_text('mask_secret = "a word among us sites"\n' + path.read_text())
        sites[10 + i] = {"site": str(path)}
    settings = read(FederationSettings, tmp_path / "site-0" / "federation.toml")
    post = GridPost(LocalGrid(flower_app.client_app(), sites))
    summary = Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert summary["rounds_absent"] == [0, 0, 0]
    assert summary["proportions"] is None
    assert all((tmp_path / f"site-{i}" / "site" / "results" / "proportions.json").exists() for i in range(3))
