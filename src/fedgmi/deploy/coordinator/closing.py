"""The end of a deployment's run: every site gets its predictor and its diagnosis, the coordinator its summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fedgmi.deploy.coordinator.remote import Remote
from fedgmi.deploy.coordinator.roster import Member
from fedgmi.diagnosis.diagnose import Diagnosis, diagnose
from fedgmi.diagnosis.survey import merged_counts
from fedgmi.errors import UserError
from fedgmi.methods.candidates import TRIED, somebody
from fedgmi.methods.disclosing import disclosed
from fedgmi.methods.personal import SHARED_ALONE
from fedgmi.protocol.ledger import bytes_by_kind
from fedgmi.protocol.rounds import Progress
from fedgmi.protocol.step import select
from fedgmi.protocol.wire import Parcel, unpack
from fedgmi.protocol.words import one_line
from fedgmi.report.explained_words import verdict
from fedgmi.runs.components import lost_words
from fedgmi.runs.metrics import USUAL, mean, of_clients, of_task
from fedgmi.runs.records import DiagnosisRecord
from fedgmi.settings.run import TaskName
from fedgmi.storage import files, folder

OF_CLIENTS = {"client_misfit": "misfit", "client_p_value": "p_value", "proportion_intervals": "proportion_intervals"}
OF_ALL = (
    *("n_components", "explained", "explained_interval", "own_scatter", "own_scatter_interval"),
    *("mixture_supported", "p_value", "warnings"),
)
MAJORITY = "majority_accuracy"
LEVEL = 0.9  # of the intervals
NOISY = "with method.epsilon counts have noise, and its tests are made for exact ones"


def close(remote: Remote, end: Progress, out: Path) -> dict[str, Any]:
    """Send what everybody is to have, and sum up.

    Args:
        remote: Over which sites are reached.
        end: Where the run stands after its last step.
        out: The results folder; `out/diagnosis` is the federation's, where there are counts.

    Returns:
        The summary.
    """
    remote.recall()
    if TRIED in end.server and not somebody(end.server):
        remote.roster.tell(f"{SHARED_ALONE}. Likely fix: validation = 0.1 in the sites' site.toml")
    found = diagnosis(remote, end)
    known = None if found is None else files.finite(found.to_json())
    if known is not None:
        whole = known | about(remote, end, len(known["client_misfit"]))
        written = DiagnosisRecord.write(out / folder.OF_DEPLOYMENT, whole)
        remote.roster.tell(f"diagnosis: {' '.join(verdict(written))}")
    predictor = select(end.server, remote.method.predictor.reads)
    members = remote.roster.members
    for member in members:
        if not took_part(member):
            what = "came after the last step: it has no part in this run, and no results of it"
            remote.roster.tell(f"{member.name} {what}")
    alive = [i for i in remote.roster.alive if took_part(members[i])]
    each = {i: {"diagnosis": of_client(known, i)} for i in alive}
    answers = remote.ask(dict.fromkeys(alive, remote.blocks(predictor)), remote.header("finish", round=end.round), each)
    for i in alive:
        reply = answers.get(i)
        if reply is None or "error" in reply.header:
            why = one_line(reply.header["error"]) if reply else "no answer"
            remote.roster.tell(f"{members[i].name} has not kept its results: {why}")
        else:
            members[i].quality = quality_told(reply, remote.settings.rows.task)
    return summary(remote, end)


def took_part(member: Member) -> bool:
    """Whether a site was asked for any step of the run; whoever comes after the last one was not."""
    return member.last_round >= 0 or member.absent > 0


def quality_told(reply: Parcel, task: TaskName = "classification") -> dict[str, float]:
    """What a site says of its predictor, as far as it can be true."""
    limits = {name: metric.limits for name, metric in of_task(task).items()}
    limits |= {MAJORITY: (0.0, 1.0)} if task == "classification" else {}
    layout = reply.header.get("layout")
    if not isinstance(layout, list) or len(layout) > len(limits) or any(shape_told(entry) != [1] for entry in layout):
        return {}  # before memory is taken for whatever else it speaks of
    try:
        told = unpack(reply, 8 * len(limits)).replies
        found = {name: float(told[name][0]) for name in limits if name in told and told[name].shape == (1,)}
    except Exception:  # the site has its results all the same
        return {}
    return {
        name: value
        for name, value in found.items()
        if math.isfinite(value) and limits[name][0] <= value <= limits[name][1]
    }


def of_members(members: Sequence[Member], task: TaskName = "classification") -> dict[str, Any]:
    """What the sites told, as a run's summary has it."""
    told = {name: [member.quality.get(name) for member in members] for name in (MAJORITY, *of_task(task))}
    metrics = {name: of_clients(name, told[name]) for name in of_task(task)}
    known = any(member.quality for member in members)
    if task != "classification":
        return {
            "metric": USUAL[task],
            "client_accuracy": None,
            "client_accuracy_per_client": None,
            "metrics": metrics if known else None,
        }
    return {
        "client_accuracy": metrics["accuracy"]["mean"],
        "client_accuracy_per_client": told["accuracy"] if known else None,
        "metrics": metrics if known else None,
        MAJORITY: mean(told[MAJORITY]),
        f"{MAJORITY}_per_client": told[MAJORITY] if known else None,
    }


def shape_told(entry: Any) -> Any:
    """The shape that a layout's entry speaks of; None where rows of it are left out, or it is no entry."""
    return entry.get("shape") if isinstance(entry, dict) and entry.get("rows") is None else None


def about(remote: Remote, end: Progress, n_clients: int) -> dict[str, Any]:
    """Whose diagnosis it is, and what it cost."""
    counted = remote.roster.members[:n_clients]
    return {
        "scenario": remote.settings.name,
        "seed": remote.settings.seed,
        "clients": [member.name for member in counted],
        "rows_per_client": [member.rows for member in counted],
        "interval_level": LEVEL,
        "n_components_estimated": False,
        "true_n_components": None,
        "proportion_tv": None,
        "bytes_down": end.bytes_down,
        "bytes_up": end.bytes_up,
        "seconds": end.seconds,
    }


def diagnosis(remote: Remote, end: Progress) -> Diagnosis | None:
    """Of the counts that the method asked for; None without them, or where they came with noise."""
    settings, counts = remote.settings, remote.method.counts(end.server)
    if settings.warm_start is not None:
        remote.roster.tell("there is no diagnosis: the sites' counts are those of the run that this one began with")
        return None
    if counts is None:
        return None
    if settings.epsilon is not None:
        remote.roster.tell(f"there is no diagnosis: {NOISY}")
        return None
    for line in lost_words(remote.method.metrics(end.server).get("rows_in_lost_words")):
        remote.roster.tell(line)
    held = merged_counts(counts.double().cpu(), remote.probe.schema)
    try:
        cells = remote.method.cells(end.server)
        return diagnose(held, n_components=remote.n_components, seed=settings.seed, level=LEVEL, cells=cells)
    except UserError as error:
        remote.roster.tell(f"there is no diagnosis: {error}")
        return None


def of_client(known: dict[str, Any] | None, i: int) -> dict[str, Any] | None:
    """What the diagnosis says of a site, and of the federation; nothing of other sites."""
    if known is None or i >= len(known["client_misfit"]):
        return None
    return {name: known[key][i] for key, name in OF_CLIENTS.items()} | {key: known[key] for key in OF_ALL}


def summary(remote: Remote, end: Progress) -> dict[str, Any]:
    """As `fedgmi run` writes it, of what a coordinator knows: no truth, no bounds."""
    settings = remote.settings
    told, some = disclosed(end.server), {i: m for i, m in enumerate(remote.roster.members) if took_part(m)}
    members = list(some.values())
    whole = [told[i].tolist() for i in some if i in told]
    complete = bool(whole) and len(whole) == len(members)
    if whole and not complete:
        silent = ", ".join(member.name for i, member in some.items() if i not in told)
        remote.roster.tell(f"the summary has no proportions: {silent} told none. Each site's own are in its results")
    own = settings.method.model_dump()
    of_all = {
        "method": settings.method.name,
        "preset": own.get("preset"),
        "epsilon": own.get("epsilon"),
        "scenario": settings.name,
        "seed": settings.seed,
        "rounds": settings.rounds,
        "n_components": remote.n_components,
        "clients": [member.name for member in members],
        "rows_per_client": [member.rows for member in members],
        **of_members(members, settings.rows.task),
        "proportions": whole if complete else None,
        "bytes_down": end.bytes_down,
        "bytes_up": end.bytes_up,
        "bytes": bytes_by_kind(remote.ledger),
        "seconds": end.seconds,
        "rounds_absent": [member.absent for member in members],
        "answers_refused": [member.refused for member in members],
        "counted": remote.counted,
        "sites": settings.sites,
        "oracle": None,
        "fedavg": None,
        "local": None,
    }
    if remote.cost is not None:
        of_all["privacy"] = asdict(remote.cost)
    if complete:
        counts = torch.tensor([float(member.rows) for member in members])
        of_all["component_mass"] = (counts @ torch.tensor(whole)).tolist()
    return dict(files.finite(of_all))
