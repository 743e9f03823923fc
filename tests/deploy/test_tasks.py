"""Tasks without classes over sites: the same models, predictions and numbers as in one process."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from local_post import LocalPost, federation_settings, max_difference
from rich.console import Console

from fedgmi import Federation, FedGMI
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import FederationSettings, SiteSettings
from fedgmi.deploy.site.show_check import print_check
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.site_check import check, leaves
from fedgmi.errors import ConfigError, DataError
from fedgmi.methods.disclosing import disclosing
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.ledger import Ledger
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.runs.metrics import USUAL, of_task
from fedgmi.runs.records import Summary
from fedgmi.storage import checkpoint


def wards(task: str = "regression") -> Federation:
    clients, held_out = [], []
    for i in range(6):
        rng = np.random.default_rng(i)
        x = rng.normal(50, 10, size=(50, 3))
        y = 300 + np.where(rng.random(50) < i / 5, 1, -1) * (x[:, 0] - 50) + rng.normal(size=50)
        if task == "survival":
            y = np.stack([rng.exponential(np.exp(50 - x[:, 0]).clip(0, 5)), rng.random(50) < 0.6], 1)
        clients.append((x[:40], y[:40]))
        held_out.append((x[40:], y[40:]))
    return Federation.from_arrays(clients, held_out=held_out, task=task)


WARDS = {task: wards(task) for task in ("regression", "survival")}
ROWS = {"kind": "tabular", "features": ["x0", "x1", "x2"], "task": "regression"}


def settings_for(name: str, task: str) -> FederationSettings:
    own = {} if name == "fedavg" else {"n_components": 2}
    few = {"codewords": 4, "kmeans_rounds": 2, "calibration_steps": 1, "judge_turns": 2, "warm_up_rounds": 1}
    own |= few if name == "fedgmi" else {}
    return federation_settings(rows=ROWS | {"task": task}, method={"name": name} | own, density={"name": "gaussian"})


def deployed(settings: FederationSettings, where: Path) -> dict:
    sites, data = {}, WARDS[settings.rows.task]
    for i, client in enumerate(data.clients):
        table = {"name": client.name, "data": {"path": "rows.csv"}}
        own = SiteSettings.model_validate(table)
        sites[10 + i] = Site(own, settings, where / client.name, client, data.held_out[i], f"{i:032x}")
    return Coordinator(settings, LocalPost(sites), where / "out", echo=lambda line: None).run()


@pytest.mark.parametrize("task", WARDS)
@pytest.mark.parametrize("name", ["fedgmi", "fedavg", "fedem"])
def test_equals_the_run_in_process(tmp_path, name, task):
    settings, data = settings_for(name, task), WARDS[task]
    summary = deployed(settings, tmp_path)
    method = disclosing(settings.setup().method())
    transport = InProcess(data.clients, method.program)
    end = run_rounds(
        method.name, method.program, transport, Progress(method.program.init()),
        n_clients=6, rounds=settings.rounds, participation=1.0, seed=settings.seed,
    )  # fmt: skip
    found = checkpoint.load(tmp_path / "out" / "checkpoints", name, digest=settings.digest())
    for leaf in ("expert", *(["target/edges", "target/expected"] if task == "survival" else ["target/scale"])):
        assert max_difference(found.server[leaf], end.server[leaf]) < 2e-3
    assert Ledger.from_tree(6, found.ledger) == transport.ledger
    assert set(summary["metrics"]) == set(of_task(task))
    metric = Summary.read(tmp_path / "out").metric
    assert metric == USUAL[task]
    own = json.loads((tmp_path / "client-00" / "results" / "metrics.json").read_text(encoding="utf-8"))
    assert own["metrics"][metric] == summary["metrics"][metric]["per_client"][0]
    told = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    assert ("nobody has rows for validation" in told) == (name == "fedgmi")
    if name == "fedgmi":
        model = FedGMI.load(tmp_path / "client-00" / "results" / "model")
        held_out = Federation.from_arrays([(data.held_out[0].x, data.held_out[0].y)], names=["client-00"], task=task)
        assert model.evaluate(held_out)["mean"][metric] == pytest.approx(own["metrics"][metric], rel=1e-4)


def write(where: Path, targets: str = "", rows: str = "") -> Path:
    where.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = [f"{a:.2f},{targets or f'{10 * a:.2f}'}" for a in rng.normal(size=30)]
    (where / "rows.csv").write_text("\n".join(["age,days", *lines]) + "\n", encoding="utf-8")
    site = 'name = "a"\n[data]\npath = "rows.csv"\nlabel_column = "days"\n'
    (where / "site.toml").write_text(site, encoding="utf-8")
    text = 'name = "wards"\nsites = 2\n[rows]\nkind = "tabular"\nfeatures = ["age"]\ntask = "regression"\n' + rows
    (where / "federation.toml").write_text(f"{text}[method]\nn_components = 2\n", encoding="utf-8")
    return where / "site.toml"


def test_a_site_reads_its_targets_and_is_told_what_leaves_it(tmp_path):
    site = write(tmp_path / "a")
    found = check(site, site.parent / "federation.toml")
    assert found.rows.train.y.dtype == torch.float32
    assert found.class_counts == ()
    said = "\n".join(leaves(found))
    assert "sums of its targets, Σy and Σy²" in said
    assert "how many of its rows have a label in each cell of a grid of 64" in said
    assert "each codeword and bin of the target" in said
    assert "RMSE, MAE, R²" in said
    assert "classes" not in said


def told(site: Path) -> str:
    """What `fedgmi site check` prints."""
    console = Console(file=io.StringIO(), width=400)
    print_check(check(site, site.parent / "federation.toml"), console)
    return console.file.getvalue()


def test_a_site_is_told_that_its_own_rows_teach_nothing(tmp_path):
    """It may take part all the same: others have what is to be learnt."""
    same = told(write(tmp_path / "a", targets="7"))
    assert "one target in all the 19 training rows of a (by days): a model of their own alone predicts" in same
    assert "a is ready for wards." in same
    assert "training rows of a" not in told(write(tmp_path / "b"))


@pytest.mark.parametrize(
    ("task", "words"), [("survival", "no event in any of 240 training"), ("regression", "the target is 3 in all 240")]
)
def test_a_federation_whose_sites_have_nothing_to_learn_from_ends_with_the_reason(tmp_path, monkeypatch, task, words):
    data = WARDS[task]
    clients = [replace(client, y=torch.full_like(client.y, 3.0)) for client in data.clients]
    if task == "survival":
        clients = [replace(client, y=client.y * torch.tensor([1.0, 0.0])) for client in data.clients]
    monkeypatch.setitem(WARDS, task, replace(data, clients=tuple(clients)))
    with pytest.raises(DataError, match=words):
        deployed(settings_for("fedavg", task), tmp_path)


def test_what_a_site_cannot_have_is_refused(tmp_path):
    site = write(tmp_path / "a", targets="late")
    with pytest.raises(DataError, match=r"rows.csv, column 'days': the targets are texts, not numbers"):
        check(site, site.parent / "federation.toml")
    site = write(tmp_path / "b", rows='classes = ["sick", "well"]\n')
    with pytest.raises(ConfigError, match=r"rows.classes: rows.task is regression, whose labels are no classes"):
        check(site, site.parent / "federation.toml")


def test_a_site_reads_times_and_events(tmp_path):
    site = write(tmp_path / "a")
    (site.parent / "rows.csv").write_text(
        "age,days,died\n" + "".join(f"{i},{10 * i},{i % 2}\n" for i in range(20)), encoding="utf-8"
    )
    text = (site.parent / "federation.toml").read_text(encoding="utf-8").replace("regression", "survival")
    (site.parent / "federation.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"data.event_column: survival needs the column of each row's event"):
        check(site, site.parent / "federation.toml")
    with site.open("a", encoding="utf-8") as file:
        file.write('event_column = "died"\n')
    found = check(site, site.parent / "federation.toml")
    parts = found.rows.train, found.rows.held_out, found.rows.validation
    assert sum(len(part) for part in parts) == 20
    assert all(part.y.shape == (len(part), 2) for part in parts)
    assert "died" not in found.rows.ignored
    said = "\n".join(leaves(found))
    assert "how many of its rows, and of its events, are in each of 64 cells of time" in said
    assert "C-index" in said
