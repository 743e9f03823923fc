"""`fedgmi deploy demo`: the digits over a SuperLink and three SuperNodes, beside the same run in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from fedgmi import tree
from fedgmi.data.rows import Client, pack
from fedgmi.data.scenarios.scenarios import build_scenario
from fedgmi.deploy.local.deployment import running
from fedgmi.deploy.settings import FederationSettings, SiteSettings, read
from fedgmi.deploy.site.results import quality
from fedgmi.deploy.site.site_data import load_site
from fedgmi.mixture.matching import match_components, reorder
from fedgmi.protocol.in_process import InProcess
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.report.formats import bare_table, number, percent, short_shares, size
from fedgmi.settings.run import DataSettings, ScenarioSettings
from fedgmi.storage import files, folder

SITES, COMPONENTS, ROWS = 3, 2, 300
PATIENCE_S = 1800.0
FEDERATION = f"""# The digits, upright and turned by 90 degrees, over {SITES} sites.
name = "digits"
sites = {SITES}
wait_s = 300
deadline_s = 300
seed = 0
rounds = 3

[rows]
kind = "image"
shape = [1, 8, 8]
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]

[method]
name = "fedgmi"
preset = "sketch"          # few exchanges
n_components = {COMPONENTS}
kmeans_rounds = 3
personal = false           # seven exchanges less

[training]
lr = 3e-3
"""


@dataclass(frozen=True)
class Beside:
    """The same federation in this process.

    Attributes:
        proportions: The sites'. [C, K]
        accuracies: Each site's on its held-out rows; None without such rows.
    """

    proportions: torch.Tensor
    accuracies: list[float | None]


def demo(where: Path, console: Console) -> float:
    """Run it and print both results.

    Args:
        where: A new folder.
        console: Where to print.

    Returns:
        The largest difference between the proportions of both runs.
    """
    folder.claim(where, resume=False)

    def tell(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    clients, truth = digits()
    sites = [write_site(where / f"site-{i + 1}", client) for i, client in enumerate(clients)]
    with running(where / "deployment", "digits", FEDERATION, sites) as deployment:
        tell(f"A SuperLink and {SITES} sites run, with TLS and with keys made for them.")
        deployment.submit()
        tell(f"Submitted. Meanwhile: fedgmi deploy status {deployment.out}")
        summary = deployment.finish(PATIENCE_S)
    tell("All processes are stopped.\n")
    beside = in_process(sites)
    found = torch.tensor(summary["proportions"], dtype=torch.float64)
    print_beside(summary, found, beside, truth, console)
    difference = float((found - beside.proportions).abs().max())
    tell(f"\nLargest difference between the two runs' proportions: {difference:.1e}.")
    sent = f"{size(summary['bytes_down'])} down, {size(summary['bytes_up'])} up, {number(summary['seconds'], 0)} s"
    tell(f"Over Flower: {sent}. Results: {deployment.out}, and results/ of each site's folder.")
    return difference


def digits() -> tuple[Sequence[Client], torch.Tensor]:
    """Rows for the sites.

    Returns:
        The sites' rows, and the true shares of components among them [C, K].
    """
    # Three sites show two components where two of them are nearly pure: so are these, and the first is between them.
    settings = ScenarioSettings(
        name="rotation", n_clients=SITES, rows_per_client=ROWS, n_components=COMPONENTS, alpha=1.0
    )
    scenario = build_scenario(DataSettings(), settings, seed=6)
    assert scenario.truth is not None
    return scenario.federation.clients, scenario.truth.proportions()


def write_site(where: Path, client: Client) -> Path:
    """Write a site's folder: pictures by label, federation.toml, site.toml.

    Args:
        where: A new folder.
        client: The site's rows.

    Returns:
        The path of site.toml.
    """
    assert client.y is not None
    for i, (picture, label) in enumerate(zip(client.x, client.y.tolist(), strict=True)):
        place = where / "rows" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * picture[0]).round().to(torch.uint8).numpy()).save(place / f"{i:04d}.png")
    files.write_text(where / "federation.toml", FEDERATION)
    files.write_text(where / "site.toml", f'name = "{client.name}"\nthreads = 1\n\n[data]\npath = "rows"\n')
    return where / "site.toml"


def in_process(sites: Sequence[Path]) -> Beside:
    """The same rows, settings and seed without Flower."""
    federation = read(FederationSettings, sites[0].parent / "federation.toml")
    loaded = [load_site(read(SiteSettings, site), federation, site.parent) for site in sites]
    method = federation.setup().method()
    held = [rows.validation for rows in loaded if rows.validation is not None]
    transport = InProcess([rows.train for rows in loaded], method.program, validation=held, coding=federation.coding())
    end = run_rounds(
        method.name,
        method.program,
        transport,
        Progress(method.program.init()),
        n_clients=len(sites),
        rounds=federation.rounds,
        seed=federation.seed,
    )
    assert method.predictor.proportions is not None
    accuracies, schema = [], federation.rows.as_schema()
    for i, rows in enumerate(loaded):
        state = tree.take(transport.states, torch.tensor([i]))
        held_out = None if rows.held_out is None else replace(pack([rows.held_out]), ids=(i,))
        found = quality(method.predictor, end.server, state, pack([rows.train]), held_out, schema)
        accuracies.append(found["metrics"]["accuracy"] if found else None)
    return Beside(method.predictor.proportions(transport.states), accuracies)


def print_beside(
    summary: dict[str, Any], found: torch.Tensor, beside: Beside, truth: torch.Tensor, console: Console
) -> None:
    """One row a site: true proportions, both estimates, both accuracies."""
    order = match_components(found, truth)
    columns = truth, reorder(found, order), reorder(beside.proportions, order)
    names = ["site", "true", "over Flower", "in one process", "accuracy %", "in one process"]
    table = bare_table("Digits, upright and turned by 90 degrees", names)
    for i, name in enumerate(summary["clients"]):
        accuracies = summary["client_accuracy_per_client"][i], beside.accuracies[i]
        shares = (short_shares(column[i].tolist()) for column in columns)
        table.add_row(name, *shares, *(percent(value) for value in accuracies))
    console.print(table)
