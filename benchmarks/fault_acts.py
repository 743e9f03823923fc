"""What is done to a deployment in benchmarks/faults.py: each takes it from its first submission to its end.

They say whether the run had to be submitted again. Sites are supervised as by systemd: one whose process has ended is
started again.
"""

from __future__ import annotations

import json
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil

from fedgmi.deploy.local.deployment import Deployment
from fedgmi.errors import UserError
from fedgmi.storage import files, folder

SITES = 3
BAD = SITES - 1  # the site that fails
PATIENCE_S = 420.0
THERE = "SuperNode ID"  # Flower's word once the SuperLink has taken it
Act = Callable[[Deployment], bool]


def undisturbed(deployment: Deployment) -> bool:
    """Let it run."""
    deployment.submit()
    return finish(deployment)


def finish(deployment: Deployment, *, again: bool = False) -> bool:
    """Keep the sites running until the run has ended well → `again`."""
    deployment.until(lambda: supervised(deployment).over(), "the run ends", PATIENCE_S)
    deployment.finish(PATIENCE_S)
    return again


def supervised(deployment: Deployment) -> Deployment:
    """With sites started again whose process has ended."""
    for i in range(SITES):
        if not deployment.runs(name(i)):
            deployment.start_node(i)
    return deployment


def kill_the_node(deployment: Deployment) -> bool:
    """A site's SuperNode alone is killed: `fedgmi site serve` starts another."""
    deployment.submit()
    between_exchanges(deployment)
    psutil.Process(json.loads((own(deployment, BAD) / "supernode.json").read_text())["pid"]).kill()
    return finish(deployment)


def kill_sites(deployment: Deployment, which: tuple[int, ...], away_s: float = 0.0) -> bool:
    """Machines of sites go down at once, and come back after a while."""
    deployment.submit()
    with stopped(deployment, which):  # so that none answers while another is being killed
        for i in which:
            deployment.kill(name(i))
    time.sleep(away_s)
    for i in which:
        deployment.start_node(i)
    return finish(deployment)


def stop_a_site(deployment: Deployment, seconds: float) -> bool:
    """All processes of a site stand still for a while (SIGSTOP), as where its machine sleeps."""
    deployment.submit()
    with stopped(deployment, (BAD,)):
        time.sleep(seconds)
    return finish(deployment)


def start_a_node_late(deployment: Deployment) -> bool:
    """A site begins to serve in round 2."""
    deployment.submit()
    until_round(deployment, 1)
    join(deployment)
    return finish(deployment)


def join(deployment: Deployment) -> None:
    """Start the bad site; the others stand still meanwhile, for rounds are shorter than the start of a process."""
    found = [process for i in range(BAD) for process in deployment.left(name(i))]
    log = deployment.where / "logs" / f"{name(BAD)}.log"
    before = log.read_text().count(THERE) if log.exists() else 0
    signal_all(found, signal.SIGSTOP)
    try:
        deployment.start_node(BAD)
        deployment.until(lambda: log.read_text().count(THERE) > before, "the site is there")
    finally:
        signal_all(found, signal.SIGCONT)


def upgrade_a_site(deployment: Deployment) -> bool:
    """A site has another version of fedgmi until round 2."""
    deployment.submit()
    until_round(deployment, 1)
    (deployment.sites[BAD].parent / "fault.json").unlink()
    deployment.end(name(BAD))
    join(deployment)
    return finish(deployment)


def fill_a_sites_disk(deployment: Deployment) -> bool:
    """No process of a site can write a byte for one round, its own log included. A limit on files' sizes stands in."""
    deployment.submit()
    between_exchanges(deployment)
    limit(deployment, 0)
    until_round(deployment, rounds_done(deployment) + 2)  # the one that ends now, and the next
    limit(deployment, resource.RLIM_INFINITY)
    return finish(deployment)


def limit(deployment: Deployment, n_bytes: int) -> None:
    """How large a file may be that a process of the bad site writes."""
    for process in map(psutil.Process, deployment.left(name(BAD))):
        with suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))


def change_the_rows(deployment: Deployment, change: Callable[[list[str]], list[str]]) -> bool:
    """A site's file of rows is another one, from round 1 on."""
    deployment.submit()
    between_exchanges(deployment)
    path = deployment.sites[BAD].parent / "rows.csv"
    head, *rows = path.read_text().splitlines()
    files.write_text(path, "\n".join([head, *change(rows)]) + "\n")
    return finish(deployment)


def other_values(rows: list[str]) -> list[str]:
    """As many rows, in whose columns the numbers are 10 greater."""
    cut = (line.rsplit(",", 1) for line in rows)
    return [",".join([*(f"{float(cell) + 10:.3f}" for cell in cells.split(",")), label]) for cells, label in cut]


def more_rows(rows: list[str]) -> list[str]:
    """Half as many again."""
    return rows + other_values(rows[: len(rows) // 2])


def kill_the_link(deployment: Deployment, *, moved: bool = False) -> bool:
    """The coordinator's machine goes down; its folder may lie elsewhere when it comes back."""
    deployment.submit()
    between_exchanges(deployment)
    deployment.kill("link")
    if moved:
        before = deployment.app
        deployment.move(before.with_name("moved"))
        file = deployment.app / "flower-config.toml"  # the one absolute path, as README.md has it
        files.write_text(file, file.read_text().replace(str(before), str(deployment.app)))
        deployment.connect()
    deployment.start_link()
    deployment.submit()
    return finish(deployment, again=True)


def fill_the_disk(deployment: Deployment) -> bool:
    """The coordinator cannot write its checkpoint of round 2; when there is room again, it is submitted again."""
    files.write_json(deployment.app / "fault.json", {"round": 2})
    deployment.submit()
    deployment.until(lambda: deployment.state() == "failed", "the coordinator stops", PATIENCE_S)
    deployment.submit()
    return finish(deployment, again=True)


def until_round(deployment: Deployment, round: int) -> None:
    """Wait until a round is done: the next one has begun."""
    deployment.until(lambda: rounds_done(deployment) >= round, f"round {round} ends", PATIENCE_S)


def rounds_done(deployment: Deployment) -> int:
    """The last round that is done; -1 for none. The preparation counts as round 0."""
    path = deployment.out / folder.RECORDS
    return len(path.read_text().splitlines()) - 1 if path.exists() else -1


def between_exchanges(deployment: Deployment) -> None:
    """Wait for a moment, in round 1 or later, at which all sites have answered the same exchange and none the next."""
    until_round(deployment, 0)
    began, before = time.monotonic(), max(answers(deployment))
    while (now := answers(deployment)) != [now[0]] * SITES or now[0] == before:
        if time.monotonic() - began > PATIENCE_S:
            raise UserError("no exchange ends", where=str(deployment.where), fix="see logs")
        time.sleep(0.02)  # the next one begins soon


def answers(deployment: Deployment) -> list[int]:
    """How often each site has answered a step."""
    return [len((own(deployment, i) / "audit.jsonl").read_text().splitlines()) for i in range(SITES)]


@contextmanager
def stopped(deployment: Deployment, which: tuple[int, ...]) -> Iterator[None]:
    """All processes of these sites stand still in the block, which begins between two exchanges."""
    until_round(deployment, 0)
    found = [process for i in which for process in deployment.left(name(i))]
    between_exchanges(deployment)
    signal_all(found, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_all(found, signal.SIGCONT)


def signal_all(processes: list[int], number: signal.Signals) -> None:
    """Signal those that still run."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(process).send_signal(number)


def own(deployment: Deployment, i: int) -> Path:
    """A site's own folder."""
    return deployment.sites[i].parent / "site"


def name(i: int) -> str:
    """What the process of a site is called."""
    return f"site-{i + 1}"


killed_site: Act = partial(kill_sites, which=(BAD,))
two_killed: Act = partial(kill_sites, which=(BAD - 1, BAD))
all_away: Act = partial(kill_sites, which=tuple(range(SITES)), away_s=60.0)
stands_still: Act = partial(stop_a_site, seconds=30.0)
