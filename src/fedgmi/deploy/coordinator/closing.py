"""The end of a deployment's run: every site gets its predictor and its diagnosis, the coordinator its summary."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch

from fedgmi.deploy.coordinator.remote import Remote
from fedgmi.diagnosis.diagnose import Diagnosis, diagnose
from fedgmi.errors import UserError
from fedgmi.methods.fedgmi.sketch import map_words, merge_words
from fedgmi.protocol.rounds import Progress
from fedgmi.protocol.wire import cut
from fedgmi.storage import folder

OF_CLIENTS = {"client_misfit": "misfit", "client_p_value": "p_value", "proportion_intervals": "proportion_intervals"}
OF_ALL = ("n_components", "mixture_supported", "misfit_per_dof", "p_value", "warnings")
LEVEL = 0.9  # of the intervals


def close(remote: Remote, end: Progress, out: Path) -> dict[str, Any]:
    """Send what everybody is to have, and sum up. `out/diagnosis` is the federation's, where there are counts."""
    remote.recall()
    found = diagnosis(remote)
    told = None if found is None else folder.finite(found.to_json())
    if told is not None:
        counted = remote.roster.seats[: len(told["client_misfit"])]
        about = {
            "scenario": remote.settings.name,
            "seed": remote.settings.seed,
            "clients": [seat.name for seat in counted],
            "rows_per_client": [seat.rows for seat in counted],
            "interval_level": LEVEL,
            "n_components_estimated": False,
            "true_n_components": None,
            "proportion_tv": None,
            "bytes_down": end.bytes_down,
            "bytes_up": end.bytes_up,
            "seconds": end.seconds,
        }
        folder.write_json(out / "diagnosis" / folder.DIAGNOSIS, told | about)
    blocks = cut(end.server | remote.extra)
    seats = remote.roster.seats
    alive = remote.roster.alive
    each = {i: {"diagnosis": of_client(told, i)} for i in alive}
    answers, down, up = remote.ask(alive, blocks, remote.header("finish", round=end.round), each)
    for i in alive:
        reply = answers.get(i)
        if reply is None or "error" in reply.header:
            why = reply.header["error"] if reply else "no answer"
            remote.roster.tell(f"{seats[i].name} has not kept its results: {why}")
        elif isinstance(reply.header.get("accuracy"), float):
            seats[i].accuracy = float(reply.header["accuracy"])
    return summary(remote, end, down, up)


def diagnosis(remote: Remote) -> Diagnosis | None:
    """Of the histograms that the sketch asked for; None without them, or where they came with noise."""
    settings = remote.settings
    if "histogram" not in remote.stacked or settings.method.epsilon is not None:
        return None
    counts = remote.stacked["histogram"].double()
    word_map, _ = map_words(counts, None)
    merged = merge_words(counts, word_map)
    try:
        return diagnose(merged[:, merged.any(0)], n_components=remote.n_components, seed=settings.seed, level=LEVEL)
    except UserError as error:
        remote.roster.tell(f"there is no diagnosis: {error}")
        return None


def of_client(told: dict[str, Any] | None, i: int) -> dict[str, Any] | None:
    """What the diagnosis says of a site, and of the federation; nothing of other sites."""
    if told is None or i >= len(told["client_misfit"]):
        return None
    return {name: told[key][i] for key, name in OF_CLIENTS.items()} | {key: told[key] for key in OF_ALL}


def summary(remote: Remote, end: Progress, down: int, up: int) -> dict[str, Any]:
    """As `fedgmi run` writes it, of what a coordinator knows: no truth, no bounds."""
    settings, seats = remote.settings, remote.roster.seats
    accuracies = [seat.accuracy for seat in seats]
    known = [value for value in accuracies if value is not None]
    proportions = [seat.proportions for seat in seats]
    counts = torch.tensor([float(seat.rows) for seat in seats])
    whole = [shares for shares in proportions if shares is not None]
    of_all = {
        "method": settings.method.name,
        "preset": settings.method.preset if settings.method.name == "fedgmi" else None,
        "epsilon": settings.method.epsilon,
        "scenario": settings.name,
        "seed": settings.seed,
        "rounds": settings.rounds,
        "n_components": remote.n_components,
        "clients": [seat.name for seat in seats],
        "rows_per_client": [seat.rows for seat in seats],
        "client_accuracy": statistics.mean(known) if known else None,
        "client_accuracy_per_client": accuracies if known else None,
        "proportions": proportions if len(whole) == len(seats) else None,
        "bytes_down": end.bytes_down + down,
        "bytes_up": end.bytes_up + up,
        "seconds": end.seconds,
        "rounds_absent": [seat.absent for seat in seats],
        "oracle": None,
        "fedavg": None,
        "local": None,
    }
    if whole and len(whole) == len(seats):
        of_all["component_mass"] = (counts @ torch.tensor(whole)).tolist()
    return dict(folder.finite(of_all))
