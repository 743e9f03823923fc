"""`[privacy]` over a post: noise from sites' own secrets, ε paid before anything leaves, and what it goes with."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from local_grid import LocalGrid
from local_post import (
    SCENARIO,
    LocalPost,
    as_pictures,
    federation_settings,
    log_of,
    make_sites,
    max_difference,
    settings_of,
)
from rich.console import Console
from spying import Spy
from tables import FEATURES, table_federation, write_site

from fedgmi import FedGMI, flower_app
from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.flower import GridPost
from fedgmi.deploy.local.dry_run import dry_run
from fedgmi.deploy.settings import FederationSettings, SiteSettings, check_limits, read
from fedgmi.deploy.site.audit import Audit
from fedgmi.deploy.site.audit_view import print_audit
from fedgmi.deploy.site.guard import Guard
from fedgmi.deploy.site.private import own_noise
from fedgmi.deploy.site.site_check import check, leaves, may_come_out, never, warning
from fedgmi.errors import ConfigError, LimitError, UserError
from fedgmi.methods import METHODS, Method
from fedgmi.methods.disclosing import disclosing
from fedgmi.privacy.accountant import Spending
from fedgmi.privacy.ledger import PrivacyLedger
from fedgmi.protocol.blocks import cut
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.opening import join
from fedgmi.protocol.private_sum import why_not
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.wire import Parcel, hash_of, pack, unpack
from fedgmi.runs.private import wrappers_of
from fedgmi.storage import checkpoint

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")
MASKS = {"communication": {"secure": "masks"}}
BY_ROWS = {"training": {"optimizer": "sgd", "epochs": 1, "batch_size": 100_001, "lr": 0.5}}
N = 6


def private(name: str = "fedavg", sigma: float | None = 1.5, changes: Any = (), **own: Any) -> FederationSettings:
    """A federation with `[privacy]`; the models are large enough for a deviation to be told."""
    section = {"clip": 2.0, "delta": 1e-3} | ({} if sigma is None else {"noise_multiplier": sigma}) | own
    table = settings_of(name).model_dump() | {"expert": {"hidden": 64}, "privacy": section, "wait_s": 0.5}
    return FederationSettings.model_validate(table | dict(changes))


def deployed(settings: FederationSettings, where: Path, faults: Any = None, **own: Any) -> tuple[Any, Any, LocalPost]:
    """→ (summary, the server's last state, the post). own: of every site.toml."""
    sites = make_sites(settings, where / "sites")
    sites = {n: replace(site, settings=site.settings.model_copy(update=own)) for n, site in sites.items()}
    post = LocalPost(sites, faults=faults or {})
    summary = Coordinator(settings, post, where / "out", echo=lambda line: None).run()
    found = checkpoint.load(where / "out" / "checkpoints", settings.method.name, digest=settings.digest())
    assert found is not None
    return summary, found.server, post


def in_process(settings: FederationSettings) -> Any:
    """The same run in one process → the server's last state."""
    method, config = settings.setup().method(), settings.config()
    clients = tuple(as_pictures(client) for client in SCENARIO.federation.clients)
    wrappers = wrappers_of(config, method)
    transport = InProcess(clients, method.program, wrappers=wrappers, coding=settings.coding(), seed=settings.seed)
    start = Progress(method.program.init())
    run = {"n_clients": N, "rounds": settings.rounds, "participation": 1.0, "seed": settings.seed}
    return run_rounds(method.name, method.program, transport, start, **run).server


def updates(post: LocalPost, round: int = 1) -> dict[str, torch.Tensor]:
    """What each site's message to a round was. [P]"""
    pairs = zip(post.asked, post.replied, strict=True)
    asked = [(name, r, reply) for (name, r), (_, reply) in pairs if r.header["kind"] == "step"]
    return {
        name: unpack(reply).models["expert"].total.flatten() for name, r, reply in asked if r.header["round"] == round
    }


def ledger_of(where: Path, site: int = 0) -> dict[str, Any]:
    return json.loads((where / "sites" / f"client-0{site}" / "ledger.json").read_text())


# --- noise ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 4])
def test_noise_of_a_secret_has_the_deviation_of_its_part(parts):
    place: Any = None
    noise = own_noise("a secret", "a question", parts)(place)
    drawn = noise.like(torch.zeros(200, 200), 3.0, "expert")
    assert float(drawn.std()) == pytest.approx(3.0 / parts**0.5, rel=0.02)
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.05)
    tail = (drawn.abs() > 2 * 3.0 / parts**0.5).double().mean()
    assert float(tail) == pytest.approx(0.0455, rel=0.1)  # of a normal law
    for other in (own_noise("another", "a question", parts), own_noise("a secret", "another", parts)):
        again = other(place).like(torch.zeros(200, 200), 3.0, "expert")
        assert abs(float(torch.corrcoef(torch.stack([drawn.flatten(), again.flatten()]))[0, 1])) < 0.02


@pytest.mark.parametrize(("unit", "deviation"), [("clients", 1.5 * 2.0), ("rows", 1.5 * 2 * 0.5 * 2.0)])
def test_without_masks_each_message_has_the_whole_noise(tmp_path, unit, deviation):
    changes = BY_ROWS if unit == "rows" else {}
    _, _, loud = deployed(private(sigma=1.5, changes=changes, unit=unit), tmp_path / "a")
    _, _, calm = deployed(private(sigma=1e-9, changes=changes, unit=unit), tmp_path / "b")
    silent = updates(calm)
    noise = torch.stack([update - silent[name] for name, update in updates(loud).items()]).double()
    assert noise.numel() > 4000
    assert float(noise.std()) == pytest.approx(deviation, rel=0.05)
    assert float(torch.corrcoef(noise).triu(1).abs().max()) < 0.2  # no site has another's


@pytest.mark.parametrize("faulty", [0, 1])
def test_under_masks_the_sum_has_enough_noise_whoever_drops_out(tmp_path, faulty):
    """Four of six have to answer: parts are sized for four, and six have √(6/4) of the noise that is needed."""
    silence = {
        f"client-0{i}": lambda request, reply: None if request.header["kind"] == "step" else reply
        for i in range(faulty)
    }
    one = {"rounds": 1, "expert": {"hidden": 512}} | MASKS
    loud, calm = (
        deployed(private(sigma=sigma, changes=one), tmp_path / str(sigma), silence)[1]["expert"]
        for sigma in (1.5, 1e-9)
    )
    answered = N - faulty
    total = (loud - calm).double() * answered
    assert total.numel() > 5000
    assert float(total.std()) == pytest.approx(1.5 * 2.0 * (answered / 4) ** 0.5, rel=0.05)


@pytest.mark.parametrize("masks", [{}, MASKS])
@pytest.mark.parametrize("unit", ["clients", "rows"])
def test_with_next_to_no_noise_it_ends_as_a_simulation_does(tmp_path, unit, masks):
    settings = private(sigma=1e-9, changes=(BY_ROWS if unit == "rows" else {}) | masks, unit=unit, clip=0.05)
    _, server, _ = deployed(settings, tmp_path)
    assert max_difference(server["expert"], in_process(settings)["expert"]) < 1e-6
    free = private(sigma=1e-9, changes=(BY_ROWS if unit == "rows" else {}) | masks, unit=unit, clip=50.0)
    assert max_difference(server["expert"], in_process(free)["expert"]) > 1e-3  # the bound acts


# --- an attacker who asks again ---------------------------------------------------------------------------------------


def first_request(post: LocalPost) -> Parcel:
    return next(r for name, r in post.asked if name == "client-00" and r.header["kind"] == "step")


def replaced(request: Parcel, **header: Any) -> Parcel:
    return Parcel(request.header | header, request.payload)


def with_models(request: Parcel, shift: float) -> Parcel:
    """The same request about other models."""
    server = join(request, {})
    moved = {name: leaf + shift if name == "expert" else leaf for name, leaf in server.items()}
    header = {k: v for k, v in request.header.items() if k not in ("layout", "sent", "sizes", "forms", "hash")}
    return cut(moved).parcel(header)


def told(reply: Parcel) -> torch.Tensor:
    assert "error" not in reply.header, reply.header
    return unpack(reply).models["expert"].total


def test_the_same_question_has_the_same_answer_and_is_free(tmp_path):
    settings = private()
    _, _, post = deployed(settings, tmp_path)
    site, request = post.sites[100], first_request(post)
    before = told(site.answer(request))
    assert all(torch.equal(told(site.answer(request)), before) for _ in range(3))
    assert len(ledger_of(tmp_path)["releases"]) == 1
    for run in ("a" * 16, "b" * 16):  # under other names: the same bytes, and charged as runs
        assert torch.equal(told(site.answer(replaced(request, run=run))), before)
    (site.where / "runs").rename(tmp_path / "gone")  # what was answered is lost, and the noise is not
    assert torch.equal(told(site.answer(request)), before)
    assert len(ledger_of(tmp_path)["releases"]) == 3


def test_another_question_has_noise_of_its_own_and_is_a_run_anew(tmp_path):
    """Models moved by next to nothing: the difference of the answers is not that of the updates."""
    settings = private()
    _, _, post = deployed(settings, tmp_path)
    site, request = post.sites[100], first_request(post)
    other = site.answer(with_models(request, 1e-6))
    assert float((told(other) - told(site.answer(request))).std()) > 1.0
    assert [one["epsilon"] for one in ledger_of(tmp_path)["releases"]] == [pytest.approx(cost_of(settings))] * 3


def cost_of(settings: FederationSettings) -> float:
    sigma = settings.privacy.noise_multiplier
    assert sigma is not None
    return Spending().gaussian(sigma, settings.rounds).epsilon(settings.privacy.delta)


def test_a_site_of_other_rows_or_another_secret_has_other_noise(tmp_path):
    settings = private()
    _, _, post = deployed(settings, tmp_path)
    site, request = post.sites[100], replaced(first_request(post), run="c" * 16)
    before = told(site.answer(request))
    fewer = replace(site, train=replace(site.train, x=site.train.x[1:], y=site.train.y[1:]), digest="f" * 32)
    moved = told(fewer.answer(replaced(request, run="d" * 16)))
    assert float((moved - before).std()) > 1.0
    (site.where / "secret.json").unlink()
    assert float((told(site.answer(replaced(request, run="e" * 16))) - before).std()) > 1.0


def test_a_run_over_other_rows_and_back_is_a_run_anew(tmp_path):
    """What was answered is lost with the folder of runs, and its name is used again. It paid for the first rows."""
    settings = private()
    _, _, post = deployed(settings, tmp_path)
    site, request = post.sites[100], replaced(first_request(post), run="c" * 16)
    fewer = replace(site, train=replace(site.train, x=site.train.x[1:], y=site.train.y[1:]), digest="f" * 32)
    seen = []
    for n, (one, shift) in enumerate([(site, 0.0), (fewer, 0.0), (site, 1e-6)]):
        if (site.where / "runs").exists():
            (site.where / "runs").rename(tmp_path / f"gone-{n}")
        seen.append(told(one.answer(with_models(request, shift))))
    assert float((seen[2] - seen[0]).std()) > 1.0, "noise of its own"
    assert len(ledger_of(tmp_path)["releases"]) == 1 + 3


def new_question_charges(where: Path, site: Any, request: Parcel) -> int:
    """How many charges a question at an exchange that was answered brings: another one, then the same again."""
    before = len(ledger_of(where)["releases"])
    first = told(site.answer(request))
    assert torch.equal(told(site.answer(request)), first)
    return len(ledger_of(where)["releases"]) - before


@pytest.mark.parametrize("restored", [False, True], ids=["removed", "of a backup"])
def test_what_was_answered_is_lost_alone_and_another_question_is_a_run_anew_all_the_same(tmp_path, restored):
    """The ledger, which is still there, knows what left."""
    kept: dict[str, bytes] = {}

    def watch(request: Parcel, reply: Parcel) -> Parcel:
        guard = tmp_path / "sites" / "client-00" / "guard.json"
        if request.header.get("round") == 1 and guard.exists():
            kept["guard"] = guard.read_bytes()
        return reply

    _, _, post = deployed(private(), tmp_path, {"client-00": watch})
    site = post.sites[100]
    asked = [r for name, r in post.asked if name == "client-00" and r.header["kind"] == "step"]
    guard, request = site.where / "guard.json", asked[-1 if restored else 0]
    guard.unlink()
    if restored:
        guard.write_bytes(kept["guard"])
    assert new_question_charges(tmp_path, site, with_models(request, 1e-6)) == 1
    assert new_question_charges(tmp_path, site, with_models(request, 2e-6)) == 1


def test_a_site_that_dies_before_it_has_kept_what_it_answered_pays_once(tmp_path, monkeypatch):
    _, _, post = deployed(private(), tmp_path)
    site, request = post.sites[100], replaced(first_request(post), run="c" * 16)
    with monkeypatch.context() as patched:
        patched.setattr(Guard, "keep", lambda *_, **__: 1 / 0)
        assert "error" in site.answer(request).header
    assert new_question_charges(tmp_path, site, request) == 0


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", [{}, MASKS])
def test_a_run_is_charged_once_before_anything_leaves(tmp_path, masks):
    settings = private(sigma=None, epsilon=3.0, changes={"rounds": 3} | masks)
    paid = []

    def watch(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] == "step":
            paid.append(len(ledger_of(tmp_path)["releases"]))
        return reply

    summary, _, _ = deployed(settings, tmp_path, {"client-00": watch}, max_epsilon=3.0, max_delta=1e-3)
    assert paid == [1, 1, 1]
    for i in range(N):
        [one] = ledger_of(tmp_path, i)["releases"]
        assert (one["epsilon"], one["delta"]) == (pytest.approx(3.0), 1e-3)
    assert summary["privacy"]["epsilon"] == pytest.approx(3.0)
    assert summary["privacy"]["releases"] == 3
    secret = json.loads((tmp_path / "sites" / "client-00" / "secret.json").read_text())["secret"]
    assert secret not in (tmp_path / "sites" / "client-00" / "ledger.json").read_text()


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"max_epsilon": 2.9, "max_delta": 1e-3}, "ε = 3 in all, and max_epsilon is 2.9"),
        ({"max_epsilon": 3.0}, "δ = 0.001 in all, and max_delta is 0"),
        ({"max_epsilon": 3.0, "max_delta": 1e-5}, r"ε = 4\.\d+ in all, and max_epsilon is 3"),
    ],
)
def test_what_a_site_does_not_allow_is_not_sent(tmp_path, own, why):
    settings = private(sigma=None, epsilon=3.0)
    with pytest.raises(UserError, match="0 of 6 sites came"):
        deployed(settings, tmp_path, **own)
    assert ledger_of(tmp_path)["releases"] == []
    assert ledger_of(tmp_path)["refused"] > 0
    assert "its own limits do not allow it" in log_of(tmp_path)
    assert re.search(why, (tmp_path / "sites" / "client-00" / "log.txt").read_text(encoding="utf-8"))
    assert not list(Audit(tmp_path / "sites" / "client-00").lines())


@pytest.mark.parametrize("masks", [{}, MASKS])
def test_a_site_that_cannot_pay_costs_the_others_nothing(tmp_path, masks):
    """It says so at its greeting. Under masks each try of the first sum was charged to all others."""
    settings = private(sigma=None, epsilon=3.0, changes={**masks, "wait_s": 0.5})
    sites = make_sites(settings, tmp_path / "sites")
    first = min(sites)
    poor = sites[first].settings.model_copy(update={"max_epsilon": 2.9, "max_delta": 1e-3})
    sites[first] = replace(sites[first], settings=poor)
    with pytest.raises(UserError, match=rf"{N - 1} of {N} sites came .* its own limits do not allow it"):
        Coordinator(settings, LocalPost(sites), tmp_path / "out", echo=lambda line: None).run()
    assert all(not site.ledger().releases() for site in sites.values())


def test_under_masks_a_site_whose_limits_forbid_it_in_mid_run_is_asked_once_a_round(tmp_path):
    """It was asked again and again, each try was a message more that the others paid, and the run failed."""
    settings = private(changes=MASKS)

    def spends(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] == "hello":
            ledger = tmp_path / "sites" / reply.header["site"] / "ledger.json"
            PrivacyLedger(ledger).charge("another run", 50.0, 0.0, "another run")
        return reply

    sites, limits = make_sites(settings, tmp_path / "sites"), {"max_epsilon": 50.0, "max_delta": 0.01}
    for n in (100, 101, 102):
        sites[n] = replace(sites[n], settings=sites[n].settings.model_copy(update=limits))
    post = LocalPost(sites, faults={f"client-0{i}": spends for i in range(3)})
    Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    asked = [(name, r.header["round"]) for name, r in post.asked if r.header["kind"] == "step"]
    poor = [one for one in asked if one[0] < "client-03"]
    assert len(poor) == len(set(poor)) == 3 * settings.rounds
    assert len(ledger_of(tmp_path, 5)["releases"]) <= 1 + settings.rounds, "once more in each round, without them"
    found = status.read(tmp_path / "out")
    assert [name for name, site in sorted(found.sites.items()) if site.missing] == [f"client-0{i}" for i in range(3)]
    assert status.trouble(found) == "connected, and absent at the end of the run: client-00, client-01, client-02"
    assert "its own limits do not allow it" in log_of(tmp_path)


def test_two_runs_over_the_same_rows_add_up_as_gaussian_mechanisms_do(tmp_path):
    settings = private(sigma=None, epsilon=3.0)
    for name in "ab":
        sites = make_sites(settings, tmp_path / "sites")
        own = {"max_epsilon": 5.0, "max_delta": 1e-3}
        sites = {n: replace(site, settings=site.settings.model_copy(update=own)) for n, site in sites.items()}
        Coordinator(settings, LocalPost(sites), tmp_path / name, echo=lambda line: None).run()
    sigma = ledger_of(tmp_path)["releases"][0]["about"]["noise_multiplier"]
    spent = sites[100].ledger().spent()
    assert spent == (Spending().gaussian(sigma, 2).epsilon(1e-3), 1e-3)
    assert 3.0 < spent[0] < 5.0  # less than the sum


def test_more_rounds_than_agreed_are_refused(tmp_path):
    settings = private()
    _, _, post = deployed(settings, tmp_path)
    last = [r for name, r in post.asked if name == "client-00" and r.header["kind"] == "step"][-1]
    for round in (settings.rounds + 1, settings.rounds + 2):
        error = post.sites[100].answer(replaced(last, round=round)).header["error"]
        assert "the request has" in error
    assert len(ledger_of(tmp_path)["releases"]) == 1


def test_an_exchange_that_is_summed_again_under_other_keys_is_one_release_more(tmp_path):
    """Messages of three sites are lost on the way, so that too few have come, and all are asked once more."""
    lost: list[str] = []

    def fault(request: Parcel, reply: Parcel) -> Parcel | None:
        if request.header["kind"] == "step" and "masks" in request.header and len(lost) < 3:
            lost.append("")
            return None
        return reply

    settings = private(changes=MASKS)
    deployed(settings, tmp_path, {f"client-0{i}": fault for i in range(3)})
    assert "answered, and masks need" in log_of(tmp_path)
    run, again = ledger_of(tmp_path, 5)["releases"]
    assert again["what"] == "a private message once more, in another masked sum"
    assert again["epsilon"] == Spending().gaussian(1.5).epsilon(1e-3) < run["epsilon"]
    assert again["about"]["noise_multiplier"] == 1.5


def test_keys_by_a_name_that_was_used_before_buy_no_noise_for_another_question(tmp_path):
    """Keys have their name from the coordinator. It goes back with another question, and uses names again."""
    settings = private(changes=MASKS)
    sites = dict(enumerate(make_sites(settings, tmp_path).values()))
    spy, shape = Spy(sites), settings.setup().method().program.init()["expert"].shape
    released = []

    def ask(question: int, epoch: str) -> int:
        keys = spy.agree(range(N), epoch=epoch, round=1, number=0)
        found = spy.sum("train", 0, {"expert": torch.full(shape, 0.01 * question)}, range(N), keys, round=1)
        released.append(max(found.items())[1].numpy().tobytes())
        return len(sites[0].ledger().releases())

    assert [ask(1, "a" * 16), ask(1, "b" * 16)] == [1, 2]
    assert [ask(2, "c" * 16), ask(2, "b" * 16), ask(2, "a" * 16)] == [3, 4, 5]
    assert len(set(released)) == 5


# --- the end, and what a site is told ---------------------------------------------------------------------------------


def test_metrics_stay_at_the_sites(tmp_path):
    summary, _, post = deployed(private(), tmp_path)
    assert summary["client_accuracy"] is None
    assert summary["metrics"] is None
    assert summary["proportions"] is None
    last = [reply for (_, r), (_, reply) in zip(post.asked, post.replied, strict=True) if r.header["kind"] == "finish"]
    assert len(last) == N
    assert all(not reply.header["layout"] for reply in last)
    assert (tmp_path / "sites" / "client-00" / "results" / "metrics.json").exists()
    lines = list(post.sites[100].audit().lines())
    assert [line["tells"] for line in lines if line["kind"] == "finish"] == [""]
    assert all("noise of the site's own" in line["tells"] for line in lines if line["kind"] == "step")


def test_a_site_that_sends_more_than_can_be_is_refused(tmp_path):
    def longer(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] != "step":
            return reply
        message = unpack(reply)
        part = message.models["expert"]
        models = {"expert": replace(part, total=part.total * 50)}
        return pack(replace(message, models=models), {"rows": reply.header["rows"]})

    def heavier(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] != "step":
            return reply
        message = unpack(reply)
        models = {"expert": replace(message.models["expert"], mass=torch.tensor([30.0]).double())}
        return pack(replace(message, models=models), {"rows": reply.header["rows"]})

    summary, _, _ = deployed(private(), tmp_path, {"client-01": longer, "client-02": heavier})
    assert summary["answers_refused"] == [0, 2, 2, 0, 0, 0]
    assert "its update has length" in log_of(tmp_path)
    assert "its weight is 30, and with [privacy] each site has one voice" in log_of(tmp_path)


def test_under_masks_a_sum_that_is_too_long_ends_the_run(tmp_path):
    def spoil(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] != "step":
            return reply
        payload = reply.payload.clone()
        payload[:] = torch.randint(0, 256, payload.shape, generator=torch.Generator().manual_seed(0))
        return Parcel(reply.header | {"hash": hash_of(payload.numpy().tobytes())}, payload)

    with pytest.raises(UserError, match=r"the sum of 'train' over 6 sites cannot be: its (weight|update)"):
        deployed(private(changes=MASKS), tmp_path, {"client-01": spoil})


# --- methods ----------------------------------------------------------------------------------------------------------


def unbound(settings: FederationSettings) -> Method:
    """The method by itself."""
    return settings.setup().method()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_sends_models_alone_or_is_refused_by_its_step(tmp_path, name):
    settings = private(name, changes={"expert": {"hidden": 8}})
    refused = {step.name for step in disclosing(unbound(settings)).program.all_steps if why_not(step) is not None}
    if refused - {"proportions"}:  # told at the end where there is no [privacy]
        with pytest.raises(ConfigError, match=f"the step '({'|'.join(refused)}).*' of {name} cannot be private"):
            settings.running(unbound(settings))
        return
    method = settings.running(unbound(settings))
    _, _, post = deployed(settings, tmp_path)
    sent = [entry["name"] for _, reply in post.replied for entry in reply.header.get("layout", ())]
    assert all(leaf.startswith("models/") for leaf in sent)
    assert bool(sent) == any(step.tells for step in method.program.all_steps)


def test_fedgmi_with_one_component_sends_models_alone_and_sites_have_parts_of_their_own(tmp_path):
    own = {"name": "fedgmi", "n_components": 1, "reference_rounds": 0}
    settings = private(sigma=1.0, changes={"method": own})
    summary, _, post = deployed(settings, tmp_path)
    assert summary["privacy"]["releases"] == 2
    sent = {entry["name"] for _, reply in post.replied for entry in reply.header.get("layout", ())}
    assert sent == {"models/expert/total", "models/expert/mass"}
    model = FedGMI.load(tmp_path / "sites" / "client-00" / "results" / "model")
    assert model.predict_proba(as_pictures(SCENARIO.federation.held_out[0]).x, client="client-00").shape[1] == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": {"name": "fedgmi", "n_components": 3}}, "the step 'features' of fedgmi cannot be private"),
        ({"method": {"name": "fedgmi", "n_components": 1, "personal": False}}, "the step 'em' of fedgmi .* beside"),
        ({"method": {"name": "fedavg-ft"}}, "the step 'try tuning' of fedavg-ft cannot be private"),
        ({"robust": {"aggregation": "median"}}, "robust.aggregation: updates are bounded at the sites already"),
        ({"robust": {"max_norm": "median"}}, "robust.max_norm: updates are bounded"),
        ({"communication": {"precision": "8"}}, "communication: a codec codes differences"),
        ({"communication": {"mb_per_client": 9.0}}, "communication: a codec codes"),
        ({"privacy": {"clip": 1.0}}, "privacy: neither epsilon nor noise_multiplier is given"),
        ({"privacy": {"epsilon": 1.0}}, "privacy: privacy.clip is unset"),
        ({"privacy": {"clip": 1.0, "epsilon": 1.0, "noise_multiplier": 1.0}}, "give one of"),
        ({"privacy": {"clip": 1.0, "epsilon": 1.0, "unit": "rows"}}, "one plain step on all of its rows"),
    ],
)
def test_what_it_does_not_go_with_is_refused_at_the_start(changes, said):
    settings = private(changes=changes)
    with pytest.raises(ConfigError, match=said):
        settings.running(settings.setup().method())


def test_a_limit_of_a_site_needs_noise_to_limit():
    site = SiteSettings.model_validate({"name": "a", "data": {"path": "rows.csv"}, "max_epsilon": 1.0})
    check_limits(site, private())
    with pytest.raises(LimitError, match=r"neither method\.epsilon nor \[privacy\] is set"):
        check_limits(site, federation_settings())


@pytest.mark.parametrize("value", [{"clip": 0.0}, {"clip": -1.0}, {"delta": 1.0}, {"unit": "sites"}, {"epsilon": "x"}])
def test_numbers_that_cannot_be_are_named(tmp_path, value):
    (tmp_path / "federation.toml").write_text(
        table_federation() + "\n[privacy]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in value.items())
    )
    with pytest.raises(ConfigError, match=f"privacy.{next(iter(value))}"):
        read(FederationSettings, tmp_path / "federation.toml")


# --- tables -----------------------------------------------------------------------------------------------------------


def table(ranges: bool = True, more: str = "") -> str:
    """`federation.toml` of three sites with tables, fedavg and `[privacy]`."""
    own = ("n_components", "codewords", "kmeans_rounds", "calibration_steps", "judge_turns", "warm_up_rounds")
    kept = [line for line in table_federation().splitlines() if line.partition(" = ")[0] not in own]
    text = "\n".join(kept).replace("[method]", '[method]\nname = "fedavg"')
    known = "ranges = { " + ", ".join(f"{name} = [0, 200]" for name in FEATURES) + " }\n\n[method]"
    text = text.replace("[method]", known) if ranges else text
    return f"{text}\n[privacy]\nclip = 1.0\nepsilon = 3.0\ndelta = 1e-3\n{more}"


def test_tables_are_scaled_by_the_ranges_that_were_agreed_on(tmp_path):
    path = write_site(tmp_path / "site-0", 0, table())
    settings = read(FederationSettings, path.parent / "federation.toml")
    program = settings.running(settings.setup().method()).program
    assert [step.name for step in program.all_steps] == ["train"]
    assert program.init()["scale/mean"].tolist() == [100.0] * 4
    assert program.init()["scale/std"].tolist() == pytest.approx([200 / 12**0.5] * 4)


@pytest.mark.parametrize("more", ["", '\n[communication]\nsecure = "masks"\n'])
def test_a_dry_run_writes_private_messages_and_charges_nothing(tmp_path, more):
    path = write_site(tmp_path / "site-0", 0, table(more=more))
    lines = dry_run(path, path.parent / "federation.toml", tmp_path / "dry")
    [train] = [line for line in lines if line["leaves"]]
    assert train["name"] == "train"
    assert "updates are cut to length 1 in all" in train["tells"]
    assert not (path.parent / "site").exists()


@pytest.mark.parametrize("more", ["", '\n[communication]\nsecure = "masks"\n'])
def test_over_a_grid_of_flower(tmp_path, more):
    """Three sites with files of their own; each has paid when its results are there."""
    sites = {}
    for i in range(3):
        path = write_site(tmp_path / f"site-{i}", i, table(more=more))
        path.write_text("max_epsilon = 3.0\nmax_delta = 1e-3\n" + path.read_text())
        sites[10 + i] = {"site": str(path)}
    settings = read(FederationSettings, tmp_path / "site-0" / "federation.toml")
    post = GridPost(LocalGrid(flower_app.client_app(), sites))
    summary = Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert summary["rounds_absent"] == [0, 0, 0]
    assert summary["privacy"]["epsilon"] == pytest.approx(3.0)
    for i in range(3):
        where = tmp_path / f"site-{i}" / "site"
        [one] = json.loads((where / "ledger.json").read_text())["releases"]
        assert one["epsilon"] == pytest.approx(3.0)
        assert (where / "results" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("ranges = {", "# {"), "rows.ranges: 'age' has no range"),
        (("[rows]", '[rows]\nmissing = "mean"'), "rows.missing: means that fill gaps"),
    ],
)
def test_tables_without_ranges_are_refused(tmp_path, change, said):
    (tmp_path / "federation.toml").write_text(table().replace(*change))
    with pytest.raises(ConfigError, match=said):
        read(FederationSettings, tmp_path / "federation.toml").setup()


@pytest.mark.parametrize("more", ["", '\n[communication]\nsecure = "masks"\n'])
def test_site_check_says_what_is_bounded_and_what_it_costs(tmp_path, more):
    path = write_site(tmp_path / "site-0", 0, table(more=more))
    found = check(path, path.parent / "federation.toml")
    lines = list(leaves(found))
    train = next(line for line in lines if "updates of the model" in line)
    assert "cut to length 1 in all, whatever the rows, and have noise of the site's own" in train
    assert train.startswith("in every round, masked") == bool(more)
    assert not any("held out" in line for line in lines)
    assert "how good its predictor is on the rows held out: results/ has it" in list(never(found))
    said = may_come_out(found)
    assert "ε = 3 at δ = 0.001 for the whole run, 1 exchange" in said
    assert "site.toml has no max_epsilon" in said
    assert ("in sums of the sites that answer" in said) == bool(more)
    assert ("Other sites know their own parts" in said) == bool(more)
    assert more or "with their noise" in warning(found)


def test_site_audit_shows_what_was_paid(tmp_path, capsys):
    settings = private(sigma=None, epsilon=3.0)
    deployed(settings, tmp_path)
    path = tmp_path / "site.toml"
    where = tmp_path / "sites" / "client-00"
    path.write_text(f'name = "client-00"\nfolder = "{where}"\nmax_delta = 1e-3\n[data]\npath = "rows.csv"\n')
    assert print_audit(path, Console(width=200)) == 0
    shown = capsys.readouterr().out
    assert "a whole run of 2 private messages" in shown
    assert "0.001" in shown
