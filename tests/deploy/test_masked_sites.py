"""A federation whose sums are masked, over a post: the plain run's numbers, whoever drops out; nothing seen singly."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from local_post import LocalPost, as_pictures, make_sites, max_difference, settings_of

from federations import gaussian_scenario
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.masks.keys import SLOTS
from fedgmi.deploy.settings import FederationSettings
from fedgmi.errors import UserError
from fedgmi.protocol import in_process as in_process_module
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.wire import Parcel
from fedgmi.storage import checkpoint

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


def log_of(where: Path) -> str:
    return (where / "out" / "log.txt").read_text()


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda _: None)
        yield


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
            assert max_difference(server[leaf], expected[leaf]) < 2e-3
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
    with pytest.raises(UserError, match=r"2 sites answered, and masks need 3 of 4 in round 1, for 0\.3 s"):
        deployed(settings, tmp_path, faults)
