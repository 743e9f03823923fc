"""The federation of faults.py, and all that goes wrong in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedgmi.deploy.local.deployment import Deployment
from fedgmi.storage import files, folder

SITES, ROUNDS, ROWS = 3, 2, 60
BAD = SITES - 1  # the site that fails
PATIENCE_S = 480.0
FEATURES = ("age", "pulse", "weight", "height")
FEDERATION = f"""
name = "wards"
sites = {SITES}
wait_s = 240
deadline_s = 60
rounds = {ROUNDS}
§waiting

[rows]
kind = "tabular"
features = {json.dumps(FEATURES)}
classes = ["sick", "well"]

[method]
preset = "plain"
n_components = 2

[density]
hidden = 8
latent = 2

[expert]
hidden = 8

[training]
epochs = 2
batch_size = 20
lr = 1e-2

§robust
"""


def write_site(where: Path, i: int) -> Path:
    """Rows of two kinds of patients, in proportions of the site's own → the path of site.toml."""
    where.mkdir(parents=True)
    draws = np.random.default_rng(i)
    kind = draws.random(ROWS) < (0.2, 0.5, 0.8)[i % 3]
    x = draws.normal(60, 10, (ROWS, len(FEATURES))) + 25 * kind[:, None]
    labels = np.where((x[:, 0] > x[:, 1]) ^ kind, "well", "sick")
    lines = [",".join((*(f"{value:.3f}" for value in row), label)) for row, label in zip(x, labels, strict=True)]
    files.write_text(where / "rows.csv", "\n".join((",".join((*FEATURES, "state")), *lines)) + "\n")
    about = f'name = "site-{i}"\nthreads = 1\n[data]\npath = "rows.csv"\nlabel_column = "state"\n'
    files.write_text(where / "site.toml", about)
    return where / "site.toml"


def undisturbed(deployment: Deployment) -> bool:
    """Let it run to its end → whether it had to be submitted again."""
    deployment.submit()
    deployment.finish(PATIENCE_S)
    return False


def kill_a_node(deployment: Deployment) -> bool:
    """A site's machine goes down in round 1, comes back at once, and is supervised."""
    deployment.submit()
    until_round(deployment, 0)
    time.sleep(5)  # its ClientApp is at work
    restart(deployment)
    deployment.until(lambda: supervised(deployment).over(), "the run ends", PATIENCE_S)
    deployment.finish(PATIENCE_S)
    return False


def supervised(deployment: Deployment) -> Deployment:
    """With the SuperNode started again where it has ended: after a crash it is turned away for about a minute."""
    if not deployment.runs(f"site-{BAD + 1}"):
        restart(deployment)
    return deployment


def restart(deployment: Deployment) -> None:
    """The SuperNode anew, and nothing left of the one before."""
    deployment.kill(f"site-{BAD + 1}")
    deployment.start_node(BAD)


def start_a_node_late(deployment: Deployment) -> bool:
    """A SuperNode begins in round 1."""
    deployment.submit()
    until_round(deployment, 0)
    deployment.start_node(BAD)
    deployment.finish(PATIENCE_S)
    return False


def kill_the_link(deployment: Deployment) -> bool:
    """The coordinator's machine goes down in round 2, and comes back at once."""
    deployment.submit()
    until_round(deployment, 1)
    time.sleep(5)
    deployment.kill("link")
    deployment.start_link()
    deployment.submit()
    deployment.finish(PATIENCE_S)
    return True


def fill_the_disk(deployment: Deployment) -> bool:
    """The coordinator cannot write its checkpoint of round 2; when there is room again, it is submitted again."""
    files.write_json(deployment.app / "fault.json", {"round": 2})
    deployment.submit()
    deployment.until(lambda: deployment.state() == "failed", "the coordinator stops", PATIENCE_S)
    deployment.submit()
    deployment.finish(PATIENCE_S)
    return True


def until_round(deployment: Deployment, round: int) -> None:
    """Wait until a round is done: the next one has begun."""
    records = deployment.out / folder.RECORDS
    deployment.until(
        lambda: records.exists() and len(records.read_text().splitlines()) > round, f"round {round} ends", PATIENCE_S
    )


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        what: In words.
        run: The run from its first submission to its end; it says whether it had to be submitted again.
        kind: What the bad site does in round 1.
        said: What the coordinator's log has to say.
        same: Whether the result is that of a run without faults.
        waiting: Keys of federation.toml about who is waited for.
        robust: Its section `[robust]`.
        late: The sites whose SuperNodes are not started at once.
    """

    what: str
    run: Callable[[Deployment], bool] = undisturbed
    kind: str = ""
    said: str = ""
    same: bool = False
    waiting: str = ""
    robust: str = ""
    late: tuple[int, ...] = field(default=())


AWAY = rf"round 1: site-{BAD} is absent: "
DONE = "round 1 of 2 is done"
LARGE = "an update 1000 times too large"
FAULTS = {
    "none": Fault("nothing", said=DONE),
    "raises": Fault("a site raises", kind="raises", said=AWAY + ".*RuntimeError"),
    "exits": Fault("a site's process exits", kind="exits", said=AWAY),
    "hangs": Fault("a site hangs", kind="hangs", said=AWAY + ".*no answer"),
    "killed": Fault("SuperNode killed, restarted", kill_a_node, said=AWAY),
    "late": Fault(
        "a site joins late", start_a_node_late, said=f"site-{BAD} is here", waiting="min_sites = 2", late=(BAD,)
    ),
    "nan": Fault("a site sends NaN", kind="nan", said=AWAY + ".*NaN"),
    "shape": Fault("a site sends a wrong shape", kind="shape", said=AWAY + ".*expected"),
    "large-bounded": Fault(
        f'{LARGE}, `max_norm = "median"`',
        kind="large",
        said=rf"site-{BAD} is bounded: its .* times the norm bound",
        robust='[robust]\nmax_norm = "median"',
    ),
    "large": Fault(f"{LARGE}, no bound", kind="large", said=AWAY + ".*times the others' median"),
    "link-killed": Fault(
        "SuperLink killed in round 2, restarted", kill_the_link, said="goes on after round 1", same=True
    ),
    "disk-full": Fault(
        "coordinator's disk full at a checkpoint", fill_the_disk, said="stopped: .*cannot be written", same=True
    ),
}
