"""The federation of faults.py, and all that goes wrong in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import fault_acts as acts
import numpy as np
from fault_acts import BAD, SITES

from fedgmi.storage import files

ROUNDS, ROWS = 6, 200
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
preset = "sketch"
kmeans_rounds = 3
personal = false
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


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        what: In words.
        run: What is done.
        kind: What the bad site does in round 1 (faulty_site.py). "version": it has another version of fedgmi at first.
        said: What a log has to say.
        at_site: Whether that is the bad site's log, and not the coordinator's.
        same: Whether the result is that of a run without faults.
        waiting: Keys of federation.toml about who is waited for.
        robust: Its section `[robust]`.
        late: The sites whose processes are not started at once.
    """

    what: str
    run: acts.Act = acts.undisturbed
    kind: str = ""
    said: str = ""
    at_site: bool = False
    same: bool = False
    waiting: str = ""
    robust: str = ""
    late: tuple[int, ...] = field(default=())


ABSENT = rf"site-{BAD} is absent: "
AWAY = f"round 1: {ABSENT}"
DONE = f"round 1 of {ROUNDS} is done"
LARGE = "an update 1000 times too large"
TWO = "min_sites = 2"
BOUND = '[robust]\nmax_norm = "median"'
CHANGED = "the rows have changed"
FAULTS = {
    "none": Fault("nothing", said=DONE),
    "raises": Fault("a site raises", kind="raises", said=AWAY + ".*RuntimeError"),
    "exits": Fault("a site's process exits", kind="exits", said=AWAY),
    "hangs": Fault("a site hangs", kind="hangs", said=AWAY + ".*no answer"),
    "node-killed": Fault("a site's SuperNode is killed", acts.kill_the_node, said=ABSENT),
    "killed": Fault("a site is killed, restarted", acts.killed_site, said=ABSENT),
    "two-killed": Fault("two sites are killed at once, restarted", acts.two_killed, said=ABSENT),
    "all-away": Fault("all sites are away for a minute", acts.all_away, said="nobody answered", same=True),
    "stands-still": Fault("a site stands still for 30 s (SIGSTOP)", acts.stands_still, said=DONE, same=True),
    "late": Fault("a site joins late", acts.start_a_node_late, said=f"site-{BAD} is here", waiting=TWO, late=(BAD,)),
    "version": Fault(
        "a site has another version until round 2", acts.upgrade_a_site, "version", "not let in: .*0.0.1", waiting=TWO
    ),
    "site-disk-full": Fault("a site's disk is full for a round", acts.fill_a_sites_disk, said=ABSENT + ".*written"),
    "rows-changed": Fault(
        "a site's numbers change in mid-run",
        partial(acts.change_the_rows, change=acts.other_values),
        said=CHANGED,
        at_site=True,
        same=True,
    ),
    "rows-appended": Fault(
        "rows are appended in mid-run",
        partial(acts.change_the_rows, change=acts.more_rows),
        said=CHANGED,
        at_site=True,
        same=True,
    ),
    "nan": Fault("a site sends NaN", kind="nan", said=AWAY + ".*NaN"),
    "shape": Fault("a site sends a wrong shape", kind="shape", said=AWAY + ".*expected"),
    "large-bounded": Fault(
        f'{LARGE}, `max_norm = "median"`',
        kind="large",
        said=rf"site-{BAD} is bounded: its .* times the norm bound",
        robust=BOUND,
    ),
    "large": Fault(f"{LARGE}, no bound", kind="large", said=AWAY + ".*times the others' median"),
    "link-killed": Fault(
        "coordinator and SuperLink killed, restarted", acts.kill_the_link, said="goes on after round", same=True
    ),
    "link-moved": Fault(
        "the same, and its folder lies elsewhere",
        partial(acts.kill_the_link, moved=True),
        said="goes on after round",
        same=True,
    ),
    "disk-full": Fault(
        "coordinator's disk full at a checkpoint", acts.fill_the_disk, said="stopped: .*cannot be written", same=True
    ),
}
