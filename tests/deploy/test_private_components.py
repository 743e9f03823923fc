"""fedgmi with components under `[privacy]`, rows as the unit, over a post: bounds, noise, what it costs, attacks."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from local_grid import LocalGrid
from local_post import LocalPost, log_of, make_sites, max_difference
from rich.console import Console
from tables import FEATURES, table_federation, write_site
from test_private_sites import BY_ROWS, MASKS, N, deployed, in_process, ledger_of, private, replaced

from fedgmi import FedGMI, flower_app
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.coordinator.warm_start import first_state
from fedgmi.deploy.flower import GridPost
from fedgmi.deploy.local.dry_run import dry_run
from fedgmi.deploy.settings import FederationSettings, SiteSettings, read
from fedgmi.deploy.site.audit import Audit
from fedgmi.deploy.site.audit_view import print_audit
from fedgmi.deploy.site.memory import memory_of
from fedgmi.deploy.site.readiness import hindrances
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.site_check import check, leaves, may_come_out, never, warning
from fedgmi.deploy.site.site_data import load_site
from fedgmi.errors import ConfigError, UserError
from fedgmi.methods.fedgmi.sketch import raw_words
from fedgmi.mixture import bounded
from fedgmi.mixture.codebook import histogram
from fedgmi.privacy import geometric
from fedgmi.privacy.accountant import Spending, composed
from fedgmi.privacy.ledger import PrivacyLedger
from fedgmi.protocol.blocks import cut
from fedgmi.protocol.message import Message
from fedgmi.protocol.opening import join
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.private_sum import noisy_by_itself
from fedgmi.protocol.step import Step
from fedgmi.protocol.wire import Parcel, hash_of, pack, unpack
from fedgmi.runs import private as private_runs

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
EPSILON, ROUNDS, LR, CLIP = 2.0, 2, 0.5, 2.0
OWN: dict[str, Any] = {
    "name": "fedgmi", "n_components": 3, "preset": "sketch", "epsilon": EPSILON, "codewords": 6, "kmeans_rounds": 1,
    "warm_up_rounds": 1, "personal": False,
}  # fmt: skip
RELEASES = 2 + ROUNDS  # spread, k-means, em in each round


def components(sigma: float | None = 1.0, more: Mapping[str, Any] = MASKS, **own: Any) -> FederationSettings:
    """Such a federation. own: of the method."""
    changes = BY_ROWS | {"method": OWN | own, "rounds": ROUNDS} | dict(more)
    return private("fedgmi", sigma=sigma, changes=changes, unit="rows", clip=CLIP)


def of_steps(post: LocalPost, name: str = "client-00") -> list[Parcel]:
    """What a site was asked of steps, in order."""
    return [request for whose, request in post.asked if whose == name and request.header["kind"] == "step"]


def reply_to(post: LocalPost, request: Parcel) -> Message:
    """What a site answered in the run."""
    pairs = zip(post.asked, post.replied, strict=True)
    return next(unpack(reply) for (_, asked), (_, reply) in pairs if asked is request)


def step_of(site: Site, request: Parcel) -> Step:
    program = site.method().program
    return program.steps(phase_of(request.header["round"], site.federation.rounds))[request.header["step"]]


def answers(site: Site, requests: list[Parcel]) -> list[tuple[Step, Parcel, Message]]:
    """What a site says to these requests, as far as it tells anything."""
    found = []
    for request in requests:
        reply = site.answer(request)
        assert "error" not in reply.header, reply.header
        step = step_of(site, request)
        if step.tells:
            found.append((step, request, unpack(reply)))
    return found


def numbers(message: Message) -> torch.Tensor:
    """All that has noise, in a row; of models n·(θ_i − θ) but for what is the same without a row."""
    parts = [part.total for part in message.models.values()] + list(message.sums.values())
    return torch.cat([part.double().flatten() for part in parts])


def calmed(settings: FederationSettings) -> FederationSettings:
    section = settings.privacy.model_copy(update={"noise_multiplier": 1e-9, "epsilon": None})
    return settings.model_copy(update={"privacy": section})


def beside(site: Site, where: Path, federation: FederationSettings | None = None, **changes: Any) -> Site:
    """The same site in a folder of its own, with its secret: it has answered nothing."""
    where.mkdir(parents=True)
    (where / "secret.json").write_text((site.where / "secret.json").read_text())
    return replace(site, where=where, federation=federation or site.federation, **changes)


# --- bounds and noise -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LocalPost, Path]:
    """A whole run without masks → (summary, the post, where). Tests ask copies of its sites."""
    where = tmp_path_factory.mktemp("ran")
    summary, _, post = deployed(components(1.0, {}), where)
    return summary, post, where


@pytest.fixture
def again(ran: tuple[Any, LocalPost, Path], tmp_path: Path) -> tuple[Site, list[Parcel]]:
    """A site of that run as it was at its end, in a folder under `tmp_path`, and what it was asked."""
    _, post, where = ran
    shutil.copytree(where / "sites" / "client-00", tmp_path / "sites" / "client-00")
    own = post.sites[100].settings.model_copy(update={"max_delta": 1e-3})
    return replace(post.sites[100], where=tmp_path / "sites" / "client-00", settings=own), of_steps(post)


@pytest.mark.parametrize("seed", range(3))
def test_a_row_in_anothers_place_moves_no_message_by_more_than_its_bound(tmp_path, monkeypatch, seed):
    """Of a whole run over sites, with next to no noise, given what was released of the counts."""
    _, _, post = deployed(components(1e-9, {}), tmp_path)
    site, requests = post.sites[100], of_steps(post)
    mine = answers(site, requests)
    draws = torch.Generator().manual_seed(seed)
    at, x, y = int(torch.randint(len(site.train), (), generator=draws)), site.train.x.clone(), site.train.y.clone()
    x[at], y[at] = torch.rand(x.shape[1:], generator=draws) * 10**seed, 1 - y[at]
    [released] = [message.replies["histogram"] for step, _, message in mine if noisy_by_itself(step)]
    monkeypatch.setattr(geometric, "release", lambda counts, epsilon, sources: released.long())
    other = beside(site, tmp_path / "other", train=replace(site.train, x=x, y=y), digest="f" * 32)
    far = []
    for (step, _, one), (_, _, another) in zip(mine, answers(other, requests), strict=True):
        if noisy_by_itself(step):
            continue
        assert all(torch.equal(part.mass, another.models[name].mass) for name, part in one.models.items())
        most = 2 * LR * CLIP if step.row_change is None else step.row_change
        far.append(float((numbers(one) - numbers(another)).norm()) / most)
    assert len(far) == RELEASES
    assert all(1e-3 < one <= 1 + 1e-3 for one in far), far


def test_without_masks_each_message_has_the_whole_noise_of_its_bound(tmp_path):
    """A site that answers the same requests with noise and with next to none."""
    calm = calmed(components(1.5, {}, codewords=60))
    _, _, post = deployed(calm, tmp_path)
    site, requests = post.sites[100], of_steps(post)
    loud = beside(site, tmp_path / "loud", components(1.5, {}, codewords=60))
    asked = [replaced(request, federation=loud.federation.digest()) for request in requests]
    pairs = list(zip(answers(site, requests), answers(loud, asked), strict=True))
    assert len(pairs) == RELEASES + 1
    for (step, _, one), (_, _, other) in pairs:
        if noisy_by_itself(step):
            assert torch.equal(one.replies["histogram"], other.replies["histogram"])  # the same secret, the same noise
            continue
        most = 2 * LR * CLIP if step.row_change is None else step.row_change
        noise = numbers(other) - numbers(one)
        rough = 5 / (2 * len(noise)) ** 0.5
        assert float(noise.std()) == pytest.approx(1.5 * most, rel=rough), step.name
        assert abs(float(noise.mean())) < 5 * 1.5 * most / len(noise) ** 0.5


@pytest.mark.parametrize("masks", [{}, MASKS])
def test_the_histogram_has_all_of_its_noise_whether_sums_are_masked_or_not(tmp_path, masks):
    settings = components(1e-9, masks, codewords=60, epsilon=0.5)
    _, server, post = deployed(settings, tmp_path)
    told = {
        name: unpack(reply).replies["histogram"][0].double()
        for (name, asked), (_, reply) in zip(post.asked, post.replied, strict=True)
        if any(leaf["name"] == "replies/histogram" for leaf in reply.header.get("layout", ()))
    }
    task, noise = settings.setup().task(), []
    for site in post.sites.values():
        rows = site._rows(site.train, {"id": 0})
        exact = histogram(raw_words(task, server, rows), rows, 120)[0].double()
        noise.append(told[site.settings.name] - exact)
    spread = torch.cat(noise).square().mean()
    assert float(spread) == pytest.approx(geometric.noise_variance(0.5), rel=0.5)  # parts of it would have a quarter


def test_under_masks_sums_have_noise_sized_for_the_fewest_sites(tmp_path, monkeypatch):
    """Four of six have to answer: k-means over six has √(6/4) of the noise that is needed."""
    sums: list[dict[str, torch.Tensor]] = []
    first = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(bounded, "drawn_centres", lambda *given: first)
    moved = bounded.moved_centres
    monkeypatch.setattr(bounded, "moved_centres", lambda centres, found: sums.append(found) or moved(centres, found))
    for sigma in (1.5, 1e-9):
        deployed(components(sigma, MASKS | {"rounds": 1}, codewords=200, kmeans_rounds=1), tmp_path / str(sigma))
    loud, calm = (torch.cat([leaf.flatten() for leaf in found.values()]) for found in sums)
    assert len(loud) == 200 * 9
    assert float((loud - calm).std()) == pytest.approx(1.5 * bounded.CELL_CHANGE * (6 / 4) ** 0.5, rel=0.08)


@pytest.mark.parametrize("masks", [{}, MASKS])
def test_with_next_to_no_noise_it_ends_as_a_simulation_does(tmp_path, masks):
    settings = components(1e-9, masks, epsilon=1000.0)
    _, server, _ = deployed(settings, tmp_path)
    simulated = in_process(settings)
    assert server.keys() == simulated.keys()
    for name, leaf in server.items():
        assert max_difference(leaf.double(), simulated[name].double()) < 1e-5, name
    assert float((server["expert"][0] - server["expert"][1]).abs().max()) > 1e-3  # components, and not one model


# --- what it costs ----------------------------------------------------------------------------------------------------


def cost_of(times: int = 1, sigma: float = 1.0) -> float:
    """ε of runs, by the accountant."""
    return Spending(pure=(EPSILON, EPSILON) * times).gaussian(sigma, RELEASES * times).epsilon(1e-3)


@pytest.mark.parametrize("masks", [{}, MASKS])
def test_a_run_is_one_entry_of_counts_and_noise_before_anything_leaves(tmp_path, masks):
    settings = components(None, masks | {"privacy": section(epsilon=10.0)})
    paid = []

    def watch(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] == "step":
            paid.append(len(ledger_of(tmp_path)["releases"]))
        return reply

    limits = {"max_epsilon": 10.0, "max_delta": 1e-3, "max_releases": 1}
    summary, _, _ = deployed(settings, tmp_path, {"client-00": watch}, **limits)
    assert set(paid) == {1}
    sigma = settings.cost(settings.setup().method()).noise_multiplier  # type: ignore[union-attr]
    for i in range(N):
        [one] = ledger_of(tmp_path, i)["releases"]
        assert (one["epsilon"], one["delta"]) == (pytest.approx(10.0, rel=1e-4), 1e-3)
        assert one["epsilon"] == cost_of(1, sigma)
        assert (one["about"]["mechanism"], one["about"]["counts"]) == ("gaussian and geometric", 2)
    assert summary["privacy"] == {
        "unit": "rows", "epsilon": pytest.approx(10.0, rel=1e-4), "delta": 1e-3, "clip": CLIP, "releases": RELEASES,
        "noise_multiplier": sigma, "counts": [EPSILON, EPSILON],
    }  # fmt: skip
    assert (tmp_path / "sites" / "client-00" / "results" / "metrics.json").exists()


def section(**own: Any) -> dict[str, Any]:
    return {"unit": "rows", "clip": CLIP, "delta": 1e-3} | own


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"max_epsilon": 9.9, "max_delta": 1e-3}, "ε = 10 in all, and max_epsilon is 9.9"),
        ({"max_epsilon": 10.0}, "δ = 0.001 in all, and max_delta is 0"),
    ],
)
def test_what_a_site_does_not_allow_is_not_sent(tmp_path, own, why):
    settings = components(None, {"privacy": section(epsilon=10.0)})
    with pytest.raises(UserError, match="0 of 6 sites came"):
        deployed(settings, tmp_path, **own)
    assert ledger_of(tmp_path)["releases"] == []
    assert "its own limits do not allow it" in log_of(tmp_path)
    assert re.search(why, (tmp_path / "sites" / "client-00" / "log.txt").read_text(encoding="utf-8"))
    assert not list(Audit(tmp_path / "sites" / "client-00").lines())


# --- a coordinator that asks again ------------------------------------------------------------------------------------


def with_leaf(site: Site, request: Parcel, name: str, shift: float) -> Parcel:
    """The same request about another state of the server. site: which has answered it."""
    server = join(request, memory_of(site.where, request.header["run"]).blocks())
    moved = {leaf: value + shift if leaf == name else value for leaf, value in server.items()}
    header = {k: v for k, v in request.header.items() if k not in ("layout", "sent", "sizes", "forms", "hash")}
    return cut(moved).parcel(header)


def test_the_same_questions_have_the_same_answers_and_are_free(again, tmp_path):
    site, requests = again
    before = [reply.payload for request in requests for reply in [site.answer(request)]]
    assert all(torch.equal(site.answer(request).payload, old) for request, old in zip(requests, before, strict=True))
    assert len(ledger_of(tmp_path)["releases"]) == 1
    for n, run in enumerate(("a" * 16, "b" * 16)):  # under other names: the same bytes, and charged as runs
        replies = [site.answer(replaced(request, run=run)) for request in requests]
        assert all("error" not in reply.header for reply in replies)
        assert all(torch.equal(reply.payload, old) for reply, old in zip(replies, before, strict=True))
        assert len(ledger_of(tmp_path)["releases"]) == 2 + n
    spent = site.ledger().spent()
    assert spent == (pytest.approx(cost_of(3), rel=1e-9), 1e-3)  # as one accountant has it
    assert cost_of() < spent[0] < 3 * cost_of()
    (site.where / "runs").rename(tmp_path / "gone")  # what was answered is lost, and the noise is not
    assert torch.equal(site.answer(requests[0]).payload, before[0])
    assert len(ledger_of(tmp_path)["releases"]) == 3


def test_other_centres_in_an_answered_exchange_are_refused_and_in_another_run_charged(ran, again, tmp_path):
    """Moved by next to nothing. Their counts are the same, and the noise is another."""
    site, requests = again
    [counts] = [request for request in requests if noisy_by_itself(step_of(site, request))]
    before = reply_to(ran[1], counts).replies["histogram"]
    asked = with_leaf(site, counts, "sketch/centres", 1e-7)
    error = site.answer(asked).header["error"]
    assert "of the preparation is answered, and this is another request" in error
    assert len(ledger_of(tmp_path)["releases"]) == 1
    alone = [request for request in requests if request.header["round"] == 0][: requests.index(counts)]
    other = [replaced(request, run="c" * 16) for request in alone]
    assert all("error" not in site.answer(request).header for request in other)
    moved = site.answer(replaced(asked, run="c" * 16))
    assert not torch.equal(unpack(moved).replies["histogram"], before)
    assert [one["epsilon"] for one in ledger_of(tmp_path)["releases"]] == [cost_of()] * 2


def test_another_model_in_an_answered_round_is_a_run_anew(again, tmp_path):
    site, requests = again
    last = [request for request in requests if step_of(site, request).tells][-1]
    before = unpack(site.answer(last)).models["head"].total
    moved = site.answer(with_leaf(site, last, "expert", 1e-6))
    assert "error" not in moved.header, moved.header
    assert float((unpack(moved).models["head"].total - before).std()) > 1.0
    assert [one["epsilon"] for one in ledger_of(tmp_path)["releases"]] == [cost_of()] * 2


def test_averaging_gains_nothing_and_new_questions_end_with_the_ledger(tmp_path):
    """k-means asked under other names, then at centres that are moved by next to nothing."""
    settings = components(1.0, {})
    _, _, post = deployed(calmed(settings), tmp_path / "calm")
    exact, requests = post.sites[100], of_steps(post)
    own = exact.settings.model_copy(update={"max_delta": 1e-3, "max_runs": None})
    site = beside(exact, tmp_path / "site", settings, settings=own)
    cells = next(n for n, request in enumerate(requests) if step_of(site, request).name == "k-means")
    truth = reply_to(post, requests[cells]).sums["sums"]

    def told(site: Site, run: int, shift: float = 0.0) -> torch.Tensor | None:
        last = with_leaf(exact, requests[cells], "sketch/centres", shift) if shift else requests[cells]
        for one in (*requests[:cells], last):
            reply = site.answer(replaced(one, run=f"{run:016x}", federation=settings.digest()))
            if "error" in reply.header:
                assert "its own limits do not allow it" in reply.header["error"]
                return None
        return unpack(reply).sums["sums"]

    def error(found: list[torch.Tensor | None]) -> float:
        return float((torch.stack([one for one in found if one is not None]).mean(0) - truth).abs().mean())

    one = told(site, 0)
    assert error([one]) > 0.5
    assert error([one, *(told(site, run) for run in range(1, 9))]) == error([one])
    assert len(site.ledger().releases()) == 9  # each name is a run, and paid
    other = told(site, 9, 1e-7)
    assert other is not None
    assert float((other - one).std()) > 1.0  # noise of its own
    own = own.model_copy(update={"max_epsilon": site.ledger().spent()[0]})
    assert [told(replace(site, settings=own), 10 + n, 2e-7 + n * 1e-7) for n in range(3)] == [None] * 3


def test_a_row_that_went_and_a_secret_that_was_lost_have_other_noise_and_are_charged(again, tmp_path):
    """The difference of two answers about rows but one is not that row."""
    site, requests = again
    fewer = replace(site.train, x=site.train.x[1:], y=site.train.y[1:])  # type: ignore[index]
    later = replace(site, train=fewer, digest="f" * 32)

    def told(one: Site, run: str) -> list[torch.Tensor]:
        asked = [replaced(request, run=run * 16) for request in requests[:3]]
        spread, cells, counts = (message for _, _, message in answers(one, asked))
        return [numbers(spread), numbers(cells), counts.replies["histogram"].double().flatten()]

    before, without = told(site, "a"), told(later, "b")
    (site.where / "secret.json").unlink()
    lost = told(site, "c")
    for other, floor in ((without, 0.5), (lost, 0.5)):
        assert all(float((one - another).std()) > floor for one, another in zip(before, other, strict=True))
    assert [one["epsilon"] for one in ledger_of(tmp_path)["releases"]] == [cost_of()] * 4  # with the run itself


def test_an_exchange_that_is_summed_again_under_other_keys_is_one_release_more(tmp_path):
    """Three sites' messages are lost, so that all are asked once more; the histogram, seen singly, is no sum."""
    lost: list[str] = []

    def fault(request: Parcel, reply: Parcel) -> Parcel | None:
        if request.header["kind"] == "step" and request.header["number"] == 1 and len(lost) < 3:
            lost.append("")
            return None
        return reply

    deployed(components(1.0, MASKS), tmp_path, {f"client-0{i}": fault for i in range(3)})
    run, again = ledger_of(tmp_path, 5)["releases"]
    assert run["about"]["mechanism"] == "gaussian and geometric"
    assert again["epsilon"] == Spending().gaussian(1.0).epsilon(1e-3)
    assert again["about"]["mechanism"] == "gaussian"


# --- what else is told ------------------------------------------------------------------------------------------------


def test_neither_metrics_nor_proportions_are_told_and_the_log_says_what_was(ran):
    summary, post, where = ran
    assert summary["client_accuracy"] is summary["metrics"] is summary["proportions"] is None
    lines = [line for line in post.sites[100].audit().lines() if line["kind"] in ("step", "finish")]
    assert {line["name"] for line in lines if line["leaves"]} == {"spread", "k-means", "histograms", "em"}
    assert all("noise of the site's own" in line["tells"] for line in lines if line["leaves"])
    model = FedGMI.load(where / "sites" / "client-00" / "results" / "model")
    assert model.weights_.shape == (1, 3)


def test_sums_that_no_rows_make_are_refused(tmp_path):
    def larger(request: Parcel, reply: Parcel) -> Parcel:
        if not any(leaf["name"].startswith("sums/") for leaf in reply.header.get("layout", ())):
            return reply
        message = unpack(reply)
        return pack(Message(sums={k: v + 1e4 for k, v in message.sums.items()}), {"rows": reply.header["rows"]})

    summary, _, _ = deployed(components(1.0, {}), tmp_path, {"client-02": larger})
    assert summary["answers_refused"][2] > 0
    assert re.search(r"client-02 is absent: its sums have length .*, and with \[privacy\] no more", log_of(tmp_path))


def test_under_masks_a_sum_that_is_too_long_ends_the_run(tmp_path):
    def spoil(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] != "step" or "masks" not in request.header:
            return reply
        payload = reply.payload.clone()
        payload[:] = torch.randint(0, 256, payload.shape, generator=torch.Generator().manual_seed(0))
        return Parcel(reply.header | {"hash": hash_of(payload.numpy().tobytes())}, payload)

    with pytest.raises(UserError, match="the sum of 'spread' over 6 sites cannot be: its sums have length"):
        deployed(components(1.0, MASKS), tmp_path, {"client-01": spoil})


def test_a_site_that_comes_late_has_even_proportions_and_pays_the_whole_run(tmp_path):
    def silent(request: Parcel, reply: Parcel) -> Parcel | None:
        return None if request.header["kind"] == "step" and request.header["round"] == 0 else reply

    summary, _, post = deployed(components(1.0, {}), tmp_path, {"client-03": silent})
    assert summary["rounds_absent"][3] == 1
    told = [unpack(reply) for name, reply in post.replied if name == "client-03" and "layout" in reply.header]
    [head] = [message.models["head"] for message in told if "head" in message.models]
    assert head.mass.tolist() == pytest.approx([len(post.sites[103].train) / 3] * 3)
    assert [one["epsilon"] for one in ledger_of(tmp_path, 3)["releases"]] == [cost_of()]


def test_one_component_is_as_fedavg(tmp_path):
    own = {"name": "fedgmi", "n_components": 1, "reference_rounds": 0, "personal": False}
    settings = private("fedgmi", sigma=1e-9, changes=BY_ROWS | {"method": own}, unit="rows", clip=0.05)
    _, server, _ = deployed(settings, tmp_path)
    assert max_difference(server["expert"], in_process(settings)["expert"]) < 1e-6
    assert ledger_of(tmp_path)["releases"][0]["about"]["mechanism"] == "gaussian"


def test_a_warm_start_is_refused(tmp_path):
    settings = components(1.0, {"warm_start": str(tmp_path)})
    with pytest.raises(ConfigError, match="proportions are of counts, and these are asked for at its beginning"):
        first_state(settings, settings.running(settings.setup().method()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": OWN | {"preset": "default"}}, r"method\.preset: a single row has no bound in judges"),
        ({"method": OWN | {"epsilon": None}}, r"method\.epsilon: a single row has no bound in counts"),
        ({"privacy": section(epsilon=3.9)}, r"method\.epsilon: a row in another's place changes two counts"),
        ({"training": {"lr": 0.5}}, r"privacy\.unit: with rows as the unit a client takes one plain step"),
    ],
)
def test_what_has_no_bound_is_refused_at_the_start(changes, said):
    settings = components(1.0, changes)
    with pytest.raises(ConfigError, match=said):
        settings.running(settings.setup().method())


# --- tables, and what sites are told ----------------------------------------------------------------------------------


def table(ranges: bool = True, more: str = "", batch: int = 100_001) -> str:
    """`federation.toml` of three sites with tables, components and rows as the unit."""
    left_out = "calibration_steps", "judge_turns", "batch_size"  # the first two mean nothing to a sketch
    text = "\n".join(line for line in table_federation().splitlines() if not line.startswith(left_out))
    text = text.replace("[method]", '[method]\npreset = "sketch"\nepsilon = 0.8\npersonal = false')
    text = text.replace("[training]", f'[training]\noptimizer = "sgd"\nbatch_size = {batch}')
    known = "ranges = { " + ", ".join(f"{name} = [0, 200]" for name in FEATURES) + " }\n\n[method]"
    text = text.replace("[method]", known) if ranges else text
    return f'{text}\n[privacy]\nunit = "rows"\nclip = 1.0\nepsilon = 4.0\ndelta = 1e-3\n{more}'


MASKED = '\n[communication]\nsecure = "masks"\n'


def log_loss_of_model(where: Path) -> float:
    """Of the model that a site keeps, on rows held out as its file has them."""
    own = read(SiteSettings, where / "site.toml")
    held_out = load_site(own, read(FederationSettings, where / "federation.toml"), where).held_out
    assert held_out is not None
    assert held_out.y is not None
    model = FedGMI.load(where / "site" / "results" / "model")
    x = pd.DataFrame(held_out.x.numpy(), columns=list(FEATURES))
    found = torch.as_tensor(model.predict_proba(x, client=own.name)).double()
    return -float(found.gather(1, held_out.y[:, None]).log().mean())


@pytest.mark.parametrize("more", ["", MASKED])
def test_over_a_grid_of_flower(tmp_path, more):
    """Three sites with tables of their own, scaled by ranges; each has paid when its results are there."""
    sites = {}
    for i in range(3):
        path = write_site(tmp_path / f"site-{i}", i, table(more=more))
        path.write_text("max_epsilon = 4.0\nmax_delta = 1e-3\n" + path.read_text())
        sites[10 + i] = {"site": str(path)}
    settings = read(FederationSettings, tmp_path / "site-0" / "federation.toml")
    post = GridPost(LocalGrid(flower_app.client_app(), sites))
    summary = Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert summary["rounds_absent"] == [0, 0, 0]
    assert summary["privacy"]["epsilon"] == pytest.approx(4.0, rel=1e-4)
    for i in range(3):
        where = tmp_path / f"site-{i}" / "site"
        [one] = json.loads((where / "ledger.json").read_text())["releases"]
        assert one["epsilon"] == pytest.approx(4.0, rel=1e-4)
        told = json.loads((where / "results" / "metrics.json").read_text())
        found = log_loss_of_model(tmp_path / f"site-{i}")
        assert found == pytest.approx(told["metrics"]["log_loss"], rel=1e-4)  # the model kept has the agreed scale
    found = check(tmp_path / "site-0" / "site.toml", tmp_path / "site-0" / "federation.toml")
    [problem] = [
        one for one in hindrances(found.settings, found.federation, found.rows, tmp_path / "site-0")
        if one.where == "privacy ledger"
    ]  # fmt: skip
    assert re.search(r"one run more would be ε = \d\.\d+ in all, and max_epsilon is 4", str(problem))


@pytest.mark.parametrize("more", ["", MASKED])
def test_a_dry_run_writes_private_messages_and_charges_nothing(tmp_path, more):
    path = write_site(tmp_path / "site-0", 0, table(more=more))
    lines = dry_run(path, path.parent / "federation.toml", tmp_path / "dry")
    told = {line["name"]: line["tells"] for line in lines if line["leaves"]}
    assert list(told) == ["spread", "k-means", "histograms", "em"]
    assert all("noise of the site's own" in words for words in told.values())
    assert not (path.parent / "site").exists()


def test_tables_without_ranges_are_refused(tmp_path):
    (tmp_path / "federation.toml").write_text(table(ranges=False))
    with pytest.raises(ConfigError, match=r"rows\.ranges: 'age' has no range"):
        read(FederationSettings, tmp_path / "federation.toml").setup()


def test_more_rows_than_a_batch_are_refused_before_anything_is_paid(again, tmp_path, monkeypatch):
    monkeypatch.setattr(private_runs, "MOST_ROWS", 30)
    path = write_site(tmp_path / "site-0", 0, table(batch=31))
    with pytest.raises(ConfigError, match=r"site 'site-0' has \d+ rows, and with rows as the unit all have to fit"):
        check(path, path.parent / "federation.toml")
    site, requests = again
    training = site.federation.training.model_copy(update={"batch_size": 31})
    few = site.federation.model_copy(update={"training": training})
    asked = replaced(requests[0], run="d" * 16, federation=few.digest())
    reply = replace(site, federation=few).answer(asked)
    assert reply.header["error"].startswith("its settings cannot be used")
    assert "all have to fit into a batch of 31" in (site.where / "log.txt").read_text(encoding="utf-8")
    assert len(ledger_of(tmp_path)["releases"]) == 1


@pytest.mark.parametrize("more", ["", MASKED])
def test_site_check_says_what_is_bounded_and_what_it_costs(tmp_path, more):
    path = write_site(tmp_path / "site-0", 0, table(more=more))
    found = check(path, path.parent / "federation.toml")
    lines = list(leaves(found))
    [spread] = [line for line in lines if "projected features" in line]
    [em] = [line for line in lines if "shared experts" in line]
    [counts] = [line for line in lines if "codeword" in line and "counts" in line and "noise of ε" in line]
    assert "within a ball; they have noise of the site's own" in spread
    assert "gradient is cut to length 1, and the sum has noise of the site's own" in em
    assert spread.startswith("masked, ") or "masked, sums of its projected" in spread or not more
    assert "noise of ε = 0.8 on each. One row in another's place changes two" in counts
    assert ("seen singly though sums are masked" in counts) == bool(more)
    assert not any("held out" in line or "proportions" in line for line in lines)
    assert "how good its predictor is on the rows held out: results/ has it" in list(never(found))
    words = may_come_out(found)
    assert re.search(r"ε = 4 at δ = 0\.001 for the whole run, 3 exchanges and counts of words, of which it cha", words)
    assert ("in sums of the sites that answer and its counts of words" in words) == bool(more)
    assert "Nothing else in this list is protected" not in " ".join(lines)
    assert more or "updates and its histogram of codewords × label, with their noise" in warning(found)


def test_site_audit_shows_what_was_paid(ran, tmp_path, capsys):
    where, path = shutil.copytree(ran[2] / "sites" / "client-00", tmp_path / "client-00"), tmp_path / "site.toml"
    path.write_text(f'name = "client-00"\nfolder = "{where}"\nmax_delta = 1e-3\n[data]\npath = "rows.csv"\n')
    assert print_audit(path, Console(width=200)) == 0
    shown = capsys.readouterr().out
    assert f"a whole run of {RELEASES} private messages, and of counts" in shown
    assert f"{cost_of():g}" in shown
    assert "several units" not in shown
    ledger = PrivacyLedger(where / "ledger.json", compose=composed(1e-3))
    ledger.charge("h", EPSILON, 0.0, "its histogram of words", {"mechanism": "geometric"})
    assert ledger.spent()[0] == Spending(pure=(EPSILON,) * 4).gaussian(1.0, RELEASES).epsilon(1e-3)  # it counts twice
    print_audit(path, Console(width=200))
    assert "Releases are of several units" in capsys.readouterr().out


def cut_off(settings: FederationSettings, where: Path) -> str:
    """A run that ends in its first exchange that tells something, when most sites have answered → its name."""
    run: list[str] = []

    def dies(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] == "step" and reply.header.get("layout"):
            run.append(request.header["run"])
            raise KeyboardInterrupt
        return reply

    with pytest.raises(KeyboardInterrupt):
        deployed(settings, where, {"client-05": dies})
    return run[0]


@pytest.mark.parametrize(("masks", "more"), [({}, 0), (MASKS, 1)], ids=["plain", "masks"])
def test_a_run_that_ends_before_its_first_checkpoint_is_gone_on_with_as_the_same_run(tmp_path, masks, more):
    """Sites have paid for it. Under masks the exchange that is asked again is one release more."""
    settings = components(more=masks)
    run = cut_off(settings, tmp_path)
    assert len(ledger_of(tmp_path)["releases"]) == 1
    post = LocalPost(make_sites(settings, tmp_path / "sites"))
    Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert {request.header["run"] for _, request in post.asked} == {run}
    assert len(ledger_of(tmp_path)["releases"]) == 1 + more
    assert "begins again, as the same run" in log_of(tmp_path)


def test_fewer_sites_go_on_with_the_run_that_has_begun(tmp_path):
    """`min_sites` is the coordinator's alone."""
    run, fewer = cut_off(components(), tmp_path), components(more=MASKS | {"min_sites": 5})
    sites = make_sites(fewer, tmp_path / "sites")
    del sites[105]
    post = LocalPost(sites)
    Coordinator(fewer, post, tmp_path / "out", echo=lambda line: None).run()
    assert {request.header["run"] for _, request in post.asked} == {run}
    assert sum("a whole run" in one["what"] for one in ledger_of(tmp_path)["releases"]) == 1


def test_a_run_that_is_to_begin_with_another_model_is_another_run(tmp_path):
    """`warm_start` is no part of what sites agree on."""
    cut_off(components(), tmp_path)
    same, other = components(), components().model_copy(update={"warm_start": "results-of-may"})
    found = [Coordinator(one, LocalPost({}), tmp_path / "out", echo=str)._begun("fedgmi") for one in (same, other)]
    assert found[0] is not None
    assert found[1] is None


def test_with_other_settings_a_run_that_has_only_begun_is_begun_anew(tmp_path):
    run, other = cut_off(components(), tmp_path), components(sigma=3.0)
    post = LocalPost(make_sites(other, tmp_path / "sites"))
    Coordinator(other, post, tmp_path / "out", echo=lambda line: None).run()
    assert run not in {request.header["run"] for _, request in post.asked}
    assert "begins anew, as another run: the checkpoint belongs to another configuration" in log_of(tmp_path)
