"""Coded models over sites: the bits of the simulation, what sites keep, and answers that cannot be decoded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from local_post import SCENARIO, LocalPost, Stopped, as_pictures, federation_settings, log_of, make_sites
from test_coordinator import deployed

from federations import SMALL
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import FederationSettings
from fedgmi.deploy.site.memory import Memory
from fedgmi.errors import ConfigError
from fedgmi.methods import METHODS
from fedgmi.methods.disclosing import disclosing
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.wire import Parcel, pack, unpack
from fedgmi.protocol.wrapper import MEMORY
from fedgmi.storage import checkpoint, folder
from fedgmi.tree import Tree

TOP_AT_4 = {"precision": "4", "top": 0.3}


def settings_with(name: str, communication: dict[str, object], **own: object) -> FederationSettings:
    k = {"n_components": 3} if METHODS[name].has_components else {}
    method = {"personal": False} if name == "fedgmi" else {}
    table = SMALL.get(name, {}) | k | method | {"name": name} | own
    if "mb_per_client" in communication:
        table.pop("judge_turns", None)  # a plan chooses it
    return federation_settings(method=table, communication=communication, rounds=3)


def in_process(settings: FederationSettings) -> tuple[Tree, InProcess]:
    """The same run without a coordinator, one thing at a time as sites do it."""
    method = disclosing(settings.setup().method())
    clients = tuple(as_pictures(client) for client in SCENARIO.federation.clients)
    held = tuple(as_pictures(client) for client in SCENARIO.federation.validation)
    transport = InProcess(clients, method.program, validation=held, coding=settings.coding())
    common = {"rounds": settings.rounds, "participation": settings.method.participation, "seed": settings.seed}
    start = Progress(method.program.init())
    return run_rounds(method.name, method.program, transport, start, n_clients=len(clients), **common).server, transport


def kept_of(where: Path, settings: FederationSettings):
    return checkpoint.load(where / "out" / folder.CHECKPOINTS, settings.method.name, digest=settings.digest())


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize(
    ("name", "communication"),
    [
        ("fedavg", {"precision": "2"}),
        ("fedavg", TOP_AT_4),
        ("fedgmi", TOP_AT_4),
        ("fedem", {"precision": "8", "mask": 0.5}),
        ("cfl", TOP_AT_4),
        ("fedsparse", {"precision": "4", "layers": 0.5}),
    ],
)
def test_sites_and_simulation_hold_the_same_bits(tmp_path, name, communication):
    settings = settings_with(name, communication, participation=0.7)
    summary, _ = deployed(settings, tmp_path)
    server, transport = in_process(settings)
    found = kept_of(tmp_path, settings)
    for leaf, value in server.items():
        assert torch.equal(found.server[leaf], value), leaf
    assert Ledger.from_tree(6, found.ledger) == transport.ledger
    assert summary["bytes"] == {kind: list(both) for kind, both in transport.ledger.by_kind().items()}


@pytest.mark.usefixtures("one_by_one")
def test_what_a_site_has_left_over_is_on_its_disk(tmp_path):
    settings = settings_with("fedavg", TOP_AT_4)
    deployed(settings, tmp_path)
    _, transport = in_process(settings)
    for i, client in enumerate(SCENARIO.federation.clients):
        [run] = (tmp_path / "sites" / client.name / "runs").iterdir()
        memory = Memory(run)
        kept = memory.load(memory.exchanges()[-1])
        assert kept is not None
        assert torch.equal(kept.state[f"{MEMORY}expert"], transport.states[f"{MEMORY}expert"][i : i + 1])
        assert float(kept.state[f"{MEMORY}expert"].abs().max()) > 0


def test_a_coordinator_that_starts_again_ends_as_if_it_had_not_stopped(tmp_path):
    """It has forgotten what sites hold, and sends models whole; their numbers are the same."""
    settings = settings_with("fedavg", TOP_AT_4)
    deployed(settings, tmp_path / "whole")
    post = LocalPost(make_sites(settings, tmp_path / "sites"), stop_after=4)
    with pytest.raises(Stopped):
        Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    again = LocalPost(post.sites)
    Coordinator(settings, again, tmp_path / "out", echo=lambda line: None).run()
    expected = kept_of(tmp_path / "whole", settings).server
    found = kept_of(tmp_path, settings).server
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[leaf], value) for leaf, value in expected.items())


@pytest.mark.usefixtures("one_by_one")
def test_a_site_that_lost_its_blocks_is_sent_the_model_whole(tmp_path):
    settings = settings_with("fedavg", {"precision": "4"})

    def forget(request: Parcel, reply: Parcel) -> Parcel:
        for block in (tmp_path / "sites" / "client-03").glob("runs/*/blocks/*"):
            block.unlink()
        return reply

    deployed(settings, tmp_path, {"client-03": forget})
    server, _ = in_process(settings)
    assert torch.equal(kept_of(tmp_path, settings).server["expert"], server["expert"])
    assert "absent" not in log_of(tmp_path)


def in_model(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Parcel], Parcel]:
    """Other bytes of its model, well packed."""

    def changed(reply: Parcel) -> Parcel:
        message = unpack(reply)
        if "expert" not in message.models:
            return reply
        models = {"expert": replace(message.models["expert"], total=change(message.models["expert"].total))}
        return pack(replace(message, models=models), {"rows": reply.header["rows"]})

    return changed


def damaged(reply: Parcel) -> Parcel:
    payload = reply.payload.clone()
    payload[0] ^= 1
    return replace(reply, payload=payload)


WRONG: dict[str, tuple[dict[str, object], Callable[[Parcel], Parcel], str]] = {
    "checksum": ({"precision": "4"}, damaged, "the bytes of 'models/expert/total', 'models/expert/mass' are not what"),
    "scale is infinite": (
        {"precision": "4"},
        in_model(lambda data: torch.cat([data.new_tensor([[0x80, 0x7F]]), data[:, 2:]], 1)),
        "'models/expert/total' is NaN or infinite",
    ),
    "shape": ({"precision": "4"}, in_model(lambda data: data[:, :-1]), "'models/expert/total' is uint8 [1, "),
    "dtype": ({"precision": "4"}, in_model(lambda data: data.float()), "bytes came, expected at most"),
    "places": (TOP_AT_4, in_model(lambda data: data * 0), "'expert' cannot be decoded: places of entries that are not"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_decoded_is_refused_and_counted(tmp_path, case):
    communication, change, said = WRONG[case]
    settings = settings_with("fedavg", communication)

    def wrong(request: Parcel, reply: Parcel) -> Parcel:
        return change(reply) if request.header["kind"] == "step" and reply.header.get("layout") else reply

    summary, _ = deployed(settings, tmp_path, {"client-03": wrong})
    assert re.search(rf"round 1: client-03 is absent: .*{re.escape(said)}", log_of(tmp_path))
    records = [json.loads(line) for line in (tmp_path / "out" / folder.RECORDS).read_text().splitlines()]
    refused = [record["refused"] for record in records]
    assert [list(found) for found in refused] == [[], *[["client-03"]] * 3, []]
    assert said in refused[1]["client-03"]
    assert summary["answers_refused"] == [0, 0, 0, 3, 0, 0]
    assert summary["rounds_absent"][:3] == [0, 0, 0]


def mass_of(value: float) -> Callable[[Parcel], Parcel]:
    """Another mass of its model."""

    def changed(reply: Parcel) -> Parcel:
        message = unpack(reply)
        if "expert" not in message.models:
            return reply
        models = message.models["expert"]
        models = replace(models, mass=torch.full_like(models.mass, value), holders=torch.ones_like(models.holders))
        return pack(replace(message, models={"expert": models}), {"rows": reply.header["rows"]})

    return changed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (mass_of(float("nan")), "'models/expert/mass' is NaN or infinite"),
        (mass_of(-1.0), "the mass of 'expert' is between -1 and -1, and the site has 40 rows"),
        (lambda reply: Parcel({"error": {"a": 1}}), "its error is a dict, and no text"),
    ],
)
@pytest.mark.parametrize("communication", [TOP_AT_4, {"precision": "4"}], ids=["top", "4 bits"])
def test_a_mass_that_cannot_be_and_an_error_without_words_are_refused(tmp_path, communication, change, said):
    def wrong(request: Parcel, reply: Parcel) -> Parcel:
        return change(reply) if request.header["kind"] == "step" and request.header["round"] == 1 else reply

    summary, _ = deployed(settings_with("fedavg", communication), tmp_path, {"client-03": wrong})
    assert re.search(rf"round 1: client-03 is absent: .*{re.escape(said)}", log_of(tmp_path))
    assert summary["answers_refused"] == [0, 0, 0, 1, 0, 0]


def test_a_model_without_mass_is_none(tmp_path):
    def none(request: Parcel, reply: Parcel) -> Parcel:
        return mass_of(0.0)(reply) if request.header["kind"] == "step" and reply.header.get("layout") else reply

    summary, _ = deployed(settings_with("fedavg", TOP_AT_4), tmp_path, {"client-03": none})
    assert summary["answers_refused"] == [0] * 6
    assert "absent" not in log_of(tmp_path)


@pytest.mark.parametrize("name", ["ditto", "fedavg"])
def test_a_site_whose_replies_are_late_for_rounds_keeps_what_is_its_own(tmp_path, name):
    settings = settings_with(name, TOP_AT_4).model_copy(update={"rounds": 6})

    def late(request: Parcel, reply: Parcel) -> Parcel | None:
        return None if request.header["kind"] == "step" and request.header["round"] in (2, 3, 4) else reply

    summary, post = deployed(settings, tmp_path, {"client-03": late})
    assert summary["rounds_absent"][3] == 3
    assert "is not kept here" not in log_of(tmp_path)
    bases = {
        parcel.header["round"]: parcel.header["base"]
        for who, parcel in post.asked
        if who == "client-03" and "base" in parcel.header and parcel.header.get("number") == 0
    }
    assert bases[5] == bases[2] != bases[6]


def test_what_a_site_has_sent_and_nobody_used_is_sent_again(tmp_path):
    """A model that is wild is refused once it is decoded; the site then builds on its state of the round before."""
    settings = settings_with("fedavg", {"top": 0.3}).model_copy(update={"rounds": 4})

    def wild(request: Parcel, reply: Parcel) -> Parcel:
        if request.header["kind"] != "step" or request.header["round"] != 2:
            return reply
        message = unpack(reply)
        numbers = message.models["expert"].total.clone()
        numbers[:, -4:] = torch.tensor([1e30]).view(torch.uint8)
        models = {"expert": replace(message.models["expert"], total=numbers)}
        return pack(replace(message, models=models), {"rows": reply.header["rows"]})

    summary, post = deployed(settings, tmp_path, {"client-03": wild})
    assert "client-03 is absent: its expert moved 1e+30" in log_of(tmp_path)
    assert summary["answers_refused"] == [0, 0, 0, 1, 0, 0]
    asked = {
        parcel.header["round"]: parcel.header["base"]
        for who, parcel in post.asked
        if who == "client-03" and parcel.header["kind"] == "step"
    }
    assert (asked[2], asked[3], asked[4]) == ([1, 0], [1, 0], [3, 0])


@pytest.mark.parametrize("key", ["top", "mask", "layers"])
def test_a_fraction_by_which_nothing_travels_is_refused_before_anybody_is_asked(tmp_path, key):
    settings = settings_with("fedavg", {key: 1e-9})
    with pytest.raises(ConfigError, match=rf"communication\.{key}: it is 1e-09, .*set it to 0\."):
        Coordinator(settings, LocalPost({}), tmp_path / "out", echo=lambda line: None).run()


def test_an_unknown_precision_is_refused_before_anybody_is_asked(tmp_path):
    settings = settings_with("fedavg", {"precision": "3"})
    with pytest.raises(ConfigError, match='there is no precision "3"'):
        Coordinator(settings, LocalPost({}), tmp_path / "out", echo=lambda line: None).run()
