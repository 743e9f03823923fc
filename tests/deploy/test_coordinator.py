"""A federation over a post, against the same one in this process; and what happens where sites fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from local_post import (
    FOUR,
    SCENARIO,
    Fault,
    LocalPost,
    Stopped,
    as_pictures,
    federation_settings,
    log_of,
    make_sites,
    max_difference,
    settings_of,
)

from fedgmi import FedGMI
from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.errors import ConfigError, DivergedError, UserError
from fedgmi.methods import METHODS
from fedgmi.methods.disclosing import disclosing
from fedgmi.protocol import in_process as in_process_module
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.message import flatten
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.wire import Parcel, pack, unpack
from fedgmi.report.explained_words import verdict
from fedgmi.runs.config import Config
from fedgmi.runs.records import DiagnosisRecord, Summary
from fedgmi.runs.setup import losses_of
from fedgmi.settings.communication import CommunicationSettings
from fedgmi.settings.robust import RobustSettings
from fedgmi.storage import checkpoint, folder
from tiny import exit_code

LOST = 0.48
AVERAGE = settings_of("fedavg")  # one exchange a round, for what does not depend on the method


def in_process(settings, lost=0.0, scenario=SCENARIO):
    """The same run without a coordinator → (server, transport)."""
    method = disclosing(settings.setup().method())
    clients = tuple(as_pictures(client) for client in scenario.federation.clients)
    held = tuple(as_pictures(client) for client in scenario.federation.validation)
    losses = losses_of(with_losses(settings, lost), method)
    transport = InProcess(clients, method.program, validation=held, losses=losses)
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
    transport.admit(end.server)
    return end.server, transport


def with_losses(settings, lost: float) -> Config:
    """The settings of a simulation that loses replies."""
    return settings.setup().config.model_copy(update={"communication": CommunicationSettings(lost=lost)})


def deployed(settings, where: Path, faults=None, scenario=SCENARIO):
    """The run over sites → (summary, post)."""
    post = LocalPost(make_sites(settings, where / "sites", scenario), faults or {})
    return Coordinator(settings, post, where / "out", echo=lambda line: None).run(), post


CHOICES = {name: {} for name in METHODS} | {
    "plain": {"name": "fedgmi", "preset": "plain"},
    "sketch": {"name": "fedgmi", "preset": "sketch"},
    "farthest": {"name": "ifca", "init": "farthest"},
    "some": {"name": "fedem", "participation": 0.5},
    "warm": {"name": "ifca", "warm_rounds": 1},
    "trunk": {"name": "fedem", "shared_trunk": True},
}
TURNS = {"name": "fedgmi", "calibration_steps": 2, "judge_turns": 4, "personal": False}
"""More turns than other tests have."""


@pytest.mark.parametrize("choice", [*CHOICES, "turns"])
def test_equals_the_run_in_process(tmp_path, choice):
    """The same models, the same proportions, and the same ledger: by client, round and kind, headers included."""
    settings = settings_of(scenario=FOUR, **({"name": choice} | (CHOICES | {"turns": TURNS})[choice]))
    summary, _ = deployed(settings, tmp_path, scenario=FOUR)
    server, transport = in_process(settings, scenario=FOUR)
    name = settings.method.name
    tell = METHODS[name](settings.setup().task()).predictor.proportions
    if tell is not None:
        assert max_difference(torch.tensor(summary["proportions"]).double(), tell(transport.states)) < 1e-4
    found = checkpoint.load(tmp_path / "out" / "checkpoints", name, digest=settings.digest())
    for leaf in ("expert", "density"):
        if leaf in server:
            assert max_difference(found.server[leaf], server[leaf]) < 2e-3
    assert Ledger.from_tree(4, found.ledger) == transport.ledger
    assert (summary["bytes_down"], summary["bytes_up"]) == transport.ledger.totals()


@pytest.mark.parametrize("choice", [*METHODS, "plain", "farthest", "warm"])
def test_lost_replies_are_those_of_sites_that_stay_silent(tmp_path, choice, monkeypatch):
    """A simulation with lost replies is a deployment whose sites stay silent likewise, bit for bit and byte for byte.

    One site does not answer anything before the end.
    """
    monkeypatch.setattr(in_process_module, "chunks", lambda clients, ids: [(i,) for i in ids])  # as sites work
    settings = settings_of(scenario=FOUR, **({"name": choice} | CHOICES[choice]))
    drawn = losses_of(with_losses(settings, LOST))
    assert drawn is not None
    assert frozenset.intersection(*(drawn.lost(range(4), round) for round in range(3))) == {1}

    def silent(i: int) -> Fault:
        def fault(request: Parcel, reply: Parcel) -> Parcel | None:
            round = int(request.header.get("round", settings.rounds + 1))
            return None if round <= settings.rounds and i in drawn.lost(range(4), round) else reply

        return fault

    faults = {client.name: silent(i) for i, client in enumerate(FOUR.federation.clients)}
    summary, _ = deployed(settings, tmp_path, faults, FOUR)
    server, transport = in_process(settings, LOST, FOUR)
    name = settings.method.name
    tell = METHODS[name](settings.setup().task()).predictor.proportions
    if tell is not None:
        assert max_difference(torch.tensor(summary["proportions"]).double(), tell(transport.states)) < 1e-6  # float32
    found = checkpoint.load(tmp_path / "out" / "checkpoints", name, digest=settings.digest())
    assert found.server.keys() == server.keys()
    assert all(torch.equal(found.server[leaf], server[leaf]) for leaf in server)
    assert Ledger.from_tree(4, found.ledger) == transport.ledger
    assert summary["rounds_absent"] == [sum(i in gone for gone in transport.absent.values()) for i in range(4)]


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> tuple[dict[str, Any], LocalPost, Path]:
    """A run in which nothing went wrong."""
    where = tmp_path_factory.mktemp("clean")
    return *deployed(federation_settings(), where), where


def test_every_site_has_its_own_predictor_proportions_and_diagnosis(clean):
    summary, _, where = clean
    for i, client in enumerate(SCENARIO.federation.clients):
        results = where / "sites" / client.name / "results"
        told = json.loads((results / "proportions.json").read_text())
        assert told["site"] == client.name
        assert told["proportions"] == pytest.approx(summary["proportions"][i])
        assert told["accuracy"] == pytest.approx(summary["client_accuracy_per_client"][i])
        own = json.loads((results / "metrics.json").read_text())
        assert own["metrics"] == {name: found["per_client"][i] for name, found in summary["metrics"].items()}
        assert own["majority_accuracy"] == summary["majority_accuracy_per_client"][i]
        assert [one["name"] for one in own["per_class"]] == ["sick", "well"]
        diagnosis = json.loads((results / "diagnosis.json").read_text())
        assert len(diagnosis["proportion_intervals"]) == 3
        assert 0 <= diagnosis["explained"] <= 1 <= diagnosis["own_scatter"]
        assert not any(
            other.name in json.dumps(diagnosis) for other in SCENARIO.federation.clients if other is not client
        )
        model = FedGMI.load(results / "model")
        rows = as_pictures(SCENARIO.federation.held_out[i])
        names = [("sick", "well")[label] for label in rows.y]
        right = (model.predict(rows.x.numpy(), client=client.name) == names).mean()
        assert i > 0 or right == told["accuracy"]  # the noise of a bound on p(x) goes by the client's index


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patience": 2}, r"training\.patience: a deployment cannot end with its best round"),
        ({"lr": [0.1, 0.2]}, r"training\.lr: a deployment trains once"),
        ({"stragglers": 0.3}, r"training\.stragglers: stragglers are drawn in a simulation"),
    ],
)
def test_what_a_deployment_cannot_do_is_refused_before_anything_starts(tmp_path, change, message):
    settings = federation_settings()
    settings = settings.model_copy(update={"training": settings.training.model_copy(update=change)})
    with pytest.raises(ConfigError, match=message):
        deployed(settings, tmp_path)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"log.txt", "status.json", "metrics.prom"}


def test_the_coordinator_has_what_report_reads(clean):
    summary, _, where = clean
    assert Summary.read(where / "out").to_json()["clients"] == [client.name for client in SCENARIO.federation.clients]
    assert sum(summary["component_mass"]) == pytest.approx(240)
    assert [record["round"] for record in folder.read_records(where / "out")] == [0, 1, 2, 3]
    assert DiagnosisRecord.read(where / "out" / "diagnosis").n_components == 3
    for results in ("out", "out/diagnosis"):
        assert exit_code("report", str(where / results)) == 0
    assert (where / "out" / "diagnosis" / "diagnosis.html").exists()


def test_no_row_leaves_a_site(clean):
    """Of what a site answers nothing holds a number per row, but in the one-row sums of no site here."""
    _, post, _ = clean
    rows = {site.settings.name: site.train for site in post.sites.values()}
    for name, parcel in post.replied:
        bits = rows[name].x.flatten().tolist()
        if "layout" in parcel.header:
            for leaf in flatten(unpack(parcel)).values():
                assert 40 not in leaf.shape
        assert not any(str(value) in json.dumps(parcel.header) for value in bits[:20])


def test_a_site_s_secret_is_its_own(clean):
    """It is for nobody else to read, and no message holds it."""
    _, post, where = clean
    for client in SCENARIO.federation.clients:
        path = where / "sites" / client.name / "secret.json"
        assert path.stat().st_mode & 0o077 == 0
        secret = json.loads(path.read_text())["secret"]
        assert not any(secret in json.dumps(parcel.header) for _, parcel in post.replied)


def test_blocks_that_a_site_has_do_not_travel_again(clean):
    """The first exchange of a round brings the models; calibration then sends a handful of numbers."""
    _, post, _ = clean
    first = [request for name, request in post.asked if name == "client-00" and request.header["kind"] == "step"]
    assert max(len(request.payload) for request in first) > 4000
    assert any(len(request.payload) < 2000 for request in first[1:])


@pytest.mark.parametrize("fault", ["nan", "shape", "huge mass", "garbage", "silence", "error", "rows"])
def test_a_site_that_answers_nonsense_is_absent_and_the_rest_go_on(tmp_path, fault):
    def spoil(request: Parcel, reply: Parcel) -> Parcel | None:
        if request.header["kind"] != "step" or request.header["round"] > AVERAGE.rounds:
            return reply
        if fault == "silence":
            return None
        if fault == "error":
            return Parcel({"error": "its disk is full"})
        if fault == "garbage":
            return Parcel(reply.header, reply.payload + 1)
        if fault == "rows":
            return Parcel(reply.header | {"rows": 10**9}, reply.payload)
        message = unpack(reply)
        models = message.models["expert"]
        if fault == "nan":
            models = replace(models, total=models.total * float("nan"))
        elif fault == "shape":
            models = replace(models, total=models.total[:, :-1])
        else:
            models = replace(models, mass=models.mass * 1000)
        return pack(replace(message, models={"expert": models}), {"rows": reply.header["rows"]})

    summary, _ = deployed(AVERAGE, tmp_path, {"client-03": spoil})
    assert summary["rounds_absent"][3] == 2
    assert sum(summary["rounds_absent"]) == 2
    assert "round 1: client-03 is absent" in log_of(tmp_path)
    assert all(value is None or value == value for value in summary["client_accuracy_per_client"])


def far(request: Parcel, reply: Parcel) -> Parcel:
    """A site that moves every model a thousand times as far."""
    if request.header["kind"] != "step" or "layout" not in reply.header:
        return reply
    message = unpack(reply)
    models = {name: replace(part, total=1000 * part.total) for name, part in message.models.items()}
    return pack(replace(message, models=models), {"rows": reply.header["rows"]})


@pytest.mark.parametrize(
    "robust",
    [{"max_norm": 0.5}, {"max_norm": "median"}, {"aggregation": "median"}, {"aggregation": "trimmed-mean"}],
)
def test_robust_means_hold_against_an_update_a_thousand_times_too_large(tmp_path, robust):
    settings = AVERAGE.model_copy(update={"robust": RobustSettings.model_validate(robust)})
    server, _ = in_process(AVERAGE)
    deployed(settings, tmp_path, {"client-03": far})
    assert reach(settings, tmp_path, server) < 1.0
    assert ("client-03 is bounded: its expert moved" in log_of(tmp_path)) == ("max_norm" in robust)


def reach(settings, where: Path, server) -> float:
    """How far the expert of the run there is from that of another server."""
    found = checkpoint.load(where / "out" / "checkpoints", "fedavg", digest=settings.digest())
    return max_difference(found.server["expert"], server["expert"])


def test_without_any_bound_an_update_that_undoes_the_others_is_refused(tmp_path):
    server, _ = in_process(AVERAGE)
    summary, _ = deployed(AVERAGE, tmp_path, {"client-03": far})
    assert reach(AVERAGE, tmp_path, server) < 1.0
    assert summary["rounds_absent"][3] == AVERAGE.rounds
    assert "client-03 is absent: its expert moved" in log_of(tmp_path)


def test_a_run_that_has_diverged_everywhere_stops_at_once(tmp_path):
    settings = AVERAGE.model_copy(update={"training": AVERAGE.training.model_copy(update={"lr": 1e30})})
    with pytest.raises(DivergedError, match=r"round 1: training has diverged at 6 of 6 sites.*lower training\.lr"):
        deployed(settings, tmp_path)


def test_robust_rules_need_a_method_that_averages_models(tmp_path):
    settings = settings_of("cfl").model_copy(update={"robust": RobustSettings(aggregation="median")})
    with pytest.raises(ConfigError, match="cfl averages no models"):
        deployed(settings, tmp_path)


def test_a_request_answered_twice_is_answered_the_same(tmp_path):
    sites = make_sites(AVERAGE, tmp_path / "sites")
    checked = []

    def twice(request: Parcel, reply: Parcel) -> Parcel:
        """The network lost the first answer."""
        if request.header["kind"] == "step":
            again = sites[101].answer(request)
            assert again.header == reply.header
            assert torch.equal(again.payload, reply.payload)
            checked.append(request.header["round"])
        return reply

    post = LocalPost(sites, {"client-01": twice})
    Coordinator(AVERAGE, post, tmp_path / "out", echo=lambda line: None).run()
    assert checked == [1, 2]


@pytest.mark.parametrize("when", [9, 20])
def test_a_coordinator_that_dies_goes_on_from_its_checkpoint(tmp_path, clean, when):
    settings = federation_settings()
    post = LocalPost(make_sites(settings, tmp_path / "sites"))
    post.stop_after = when
    with pytest.raises(Stopped):
        Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    post.stop_after = None
    summary = Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert torch.tensor(summary["proportions"]).allclose(torch.tensor(clean[0]["proportions"]), atol=1e-6)
    assert [record["round"] for record in folder.read_records(tmp_path / "out")] == [0, 1, 2, 3]


def test_a_site_that_lost_its_disk_joins_anew(tmp_path):
    import shutil

    settings = federation_settings(rounds=3)
    post = LocalPost(make_sites(settings, tmp_path / "sites"))
    lost = []

    def lose(request: Parcel, reply: Parcel) -> Parcel:
        if request.header.get("round") == 1 and request.header["kind"] == "step" and not lost:
            lost.append(True)
            shutil.rmtree(tmp_path / "sites" / "client-02" / "runs")
        return reply

    post.faults["client-02"] = lose
    summary = Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert summary["rounds_absent"][2] == 1
    assert len(summary["proportions"]) == 6


def test_a_site_joins_late(tmp_path):
    settings = federation_settings(min_sites=5, rounds=3)
    sites = make_sites(settings, tmp_path / "sites")
    late = sites.pop(105)
    post = LocalPost(sites)

    def join_late(request: Parcel, reply: Parcel) -> Parcel:
        if request.header.get("round") == 1:
            post.sites[105] = late
        return reply

    post.faults["client-00"] = join_late
    summary = Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert summary["clients"][-1] == "client-05"
    assert len(summary["proportions"]) == 6


def test_a_site_that_comes_after_the_last_step_has_no_part_in_the_run(tmp_path):
    """It takes nothing from the summary of the others, and is told as what it is."""
    settings = settings_of("fedem").model_copy(update={"min_sites": 5})
    sites = make_sites(settings, tmp_path / "sites")
    late, post = sites.pop(105), LocalPost(sites)

    def join_late(request: Parcel, reply: Parcel) -> Parcel:
        if request.header.get("round") == settings.rounds + 1:
            post.sites[105] = late
        return reply

    post.faults["client-00"] = join_late
    summary = Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert summary["clients"] == [f"client-0{i}" for i in range(5)]
    assert len(summary["proportions"]) == len(summary["rounds_absent"]) == 5
    assert "client-05 came after the last step: it has no part in this run" in log_of(tmp_path)
    assert "has not kept its results" not in log_of(tmp_path)


def test_who_told_no_proportions_is_named(tmp_path):
    settings = settings_of("fedem").model_copy(update={"wait_s": 0.2})

    def silent(request: Parcel, reply: Parcel) -> Parcel | None:
        return None if request.header.get("round") == settings.rounds + 1 else reply

    summary, _ = deployed(settings, tmp_path, {"client-01": silent})
    assert summary["proportions"] is None
    assert "the summary has no proportions: client-01 told none" in log_of(tmp_path)


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_site_that_is_away_at_the_end_is_waited_for(tmp_path, comes_back):
    """It is to have its results; but not for ever."""
    settings = AVERAGE.model_copy(update={"wait_s": 5.0 if comes_back else 0.2})
    post = LocalPost(make_sites(settings, tmp_path / "sites"))
    gone, told = {}, []

    def leave(request: Parcel, reply: Parcel) -> Parcel:
        if request.header.get("round") == 2 and 102 in post.sites:
            gone[102] = post.sites.pop(102)
        return reply

    def hear(line: str) -> None:
        told.append(line)
        if comes_back and "waits for client-02" in line:
            post.sites |= gone

    post.faults["client-05"] = leave
    summary = Coordinator(settings, post, tmp_path / "out", echo=hear).run()
    assert any("waits for client-02" in line for line in told)
    assert (summary["client_accuracy_per_client"][2] is not None) == comes_back
    assert (tmp_path / "sites" / "client-02" / "results" / "model.json").exists() == comes_back


def test_the_same_site_twice(tmp_path):
    settings = AVERAGE
    sites = make_sites(settings, tmp_path / "sites")
    sites[200] = sites[100]
    summary = Coordinator(settings, LocalPost(sites), tmp_path / "out", echo=lambda line: None).run()
    assert len(summary["clients"]) == 6
    assert "the same site twice" in log_of(tmp_path)


def test_a_run_submitted_while_another_runs(tmp_path):
    (tmp_path / "out").mkdir()
    with folder.alone(tmp_path / "out"), pytest.raises(UserError, match="another fedgmi is at work there"):
        deployed(AVERAGE, tmp_path)


def test_a_site_too_many(tmp_path):
    settings = AVERAGE.model_copy(update={"sites": 5})
    sites = make_sites(settings, tmp_path / "sites")
    summary = Coordinator(settings, LocalPost(sites), tmp_path / "out", echo=lambda line: None).run()
    assert len(summary["clients"]) == 5
    assert "one site more than the 5 of federation.toml" in log_of(tmp_path)


def test_other_software_and_another_federation_are_not_let_in(tmp_path, monkeypatch):
    settings = federation_settings(wait_s=0.1)
    sites = make_sites(settings, tmp_path / "sites")
    sites[100] = replace(sites[100], federation=federation_settings(wait_s=0.1, seed=1))
    with pytest.raises(UserError, match=r"5 of 6 sites came in 0\.1 s, and 1 node is .* not let in\. ") as told:
        Coordinator(settings, LocalPost(sites), tmp_path / "out", echo=lambda line: None).run()
    turned_away = "client-00: federation.toml: the coordinator's federation.toml is another than this site's."
    assert turned_away in str(told.value)
    assert "SuperNodes" not in str(told.value), "none is missing"
    assert f"node 100: {turned_away}" in status.read(tmp_path / "out").turned_away[0]
    assert "federation.toml is another than this site's" in log_of(tmp_path)
    told = (sites[100].where / "log.txt").read_text()
    assert "federation.toml is another than this site's" in told
    assert "Traceback" not in told, "an error that explains itself is one line at the site, too"
    monkeypatch.setattr("fedgmi.deploy.coordinator.asking.__version__", "99")
    with pytest.raises(UserError, match="0 of 6 sites came"):
        Coordinator(settings, LocalPost(sites), tmp_path / "other", echo=lambda line: None).run()
    assert "the coordinator has fedgmi 99" in (tmp_path / "other" / "log.txt").read_text()


def test_nobody_answers(tmp_path):
    settings = federation_settings(wait_s=0.1)
    post = LocalPost(make_sites(settings, tmp_path / "sites"))
    post.faults = {
        client.name: lambda request, reply: None if request.header["kind"] == "step" else reply
        for client in SCENARIO.federation.clients
    }
    with pytest.raises(UserError, match="nobody answered in round 0"):
        Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert "stopped: " in log_of(tmp_path)


def test_a_full_disk_at_a_checkpoint_stops_the_run_and_loses_nothing(tmp_path, monkeypatch, clean):
    settings = federation_settings()
    post = LocalPost(make_sites(settings, tmp_path / "sites"))
    whole = checkpoint.save

    def full(where, name, state):
        if state.meta["round"] == 2:
            raise UserError("cannot be written (No space left on device)", where=str(where), fix="make room")
        whole(where, name, state)

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(UserError, match="No space left"):
        Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    monkeypatch.setattr(checkpoint, "save", whole)
    summary = Coordinator(settings, post, tmp_path / "out", echo=lambda line: None).run()
    assert torch.tensor(summary["proportions"]).allclose(torch.tensor(clean[0]["proportions"]), atol=1e-6)


def test_what_fails_at_a_site_stays_there_where_it_may_quote_rows(tmp_path, monkeypatch):
    settings = federation_settings(wait_s=0.1)
    sites = make_sites(settings, tmp_path / "sites")

    def broken(*_: object) -> None:
        raise ValueError("row 7 has the diagnosis 'secret'")

    monkeypatch.setattr("fedgmi.deploy.site.site.Site._hello", broken)
    with pytest.raises(UserError, match="0 of 6 sites came"):
        Coordinator(settings, LocalPost(sites), tmp_path / "out", echo=lambda line: None).run()
    assert "secret" not in log_of(tmp_path)
    assert "not let in: client-00: ValueError; the site's log.txt says more" in log_of(tmp_path)
    assert "secret" in (tmp_path / "sites" / "client-00" / "log.txt").read_text()


def test_the_verdict_of_the_diagnosis_stands_in_the_log_and_in_the_report(clean, capsys):
    _, _, where = clean
    found = DiagnosisRecord.read(where / "out" / "diagnosis").to_json()
    sentences = verdict(found)
    assert f"diagnosis: {' '.join(sentences)}" in log_of(where)
    assert exit_code("report", str(where / "out")) == 0
    shown = capsys.readouterr().out
    assert " ".join(sentences) in " ".join(shown.split())
    assert f"fedgmi report {where / 'out' / 'diagnosis'}" in shown


@pytest.mark.parametrize("masks", [False, True])
def test_with_noise_on_counts_there_is_no_diagnosis_and_the_log_says_so(tmp_path, capsys, masks):
    settings = settings_of("fedgmi", preset="sketch", personal=False, epsilon=5.0)
    if masks:
        settings = settings.model_copy(update={"communication": CommunicationSettings(secure="masks")})
    deployed(settings, tmp_path)
    assert not (tmp_path / "out" / "diagnosis").exists()
    assert "there is no diagnosis: with method.epsilon counts have noise" in log_of(tmp_path)
    assert exit_code("report", str(tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert "fedgmi diagnose" not in shown
    assert ("Proportions were not told by all sites" in shown) == masks
