"""Sites with a clinical table each: numbers and texts, with gaps, a number for each patient, and one column more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from local_post import LocalPost

from fedgmi.deploy.settings import FederationSettings, read
from fedgmi.flower_app import open_site
from fedgmi.protocol.wire import Parcel

COLUMNS = ("patient", "age", "sex", "ward", "pressure", "outcome")
SETTINGS = """
name = "clinics"
sites = 3
wait_s = 5
deadline_s = 60
rounds = 2
[method]
n_components = 2
codewords = 4
kmeans_rounds = 1
calibration_steps = 1
judge_turns = 2
warm_up_rounds = 1
personal = false
[density]
hidden = 8
latent = 2
[expert]
hidden = 8
[training]
epochs = 1
batch_size = 20
lr = 1e-2
"""


def write_rows(where: Path, i: int, n: int = 60) -> Path:
    """rows.csv of site i. Every fifth age and every tenth sex is missing."""
    draws = np.random.default_rng(i)
    old = draws.random(n) < (0.2, 0.5, 0.8)[i % 3]
    lines = [",".join((*COLUMNS, *(["pulse"] if i == 0 else [])))]
    for row in range(n):
        age = "" if row % 5 == 1 else f"{draws.normal(70 if old[row] else 35, 5):.1f}"
        sex = "" if row % 10 == 2 else "fm"[row % 2]
        pressure = draws.normal(150 if old[row] else 110, 10)
        ill = (pressure > 130) ^ (draws.random() < 0.1)
        cells = [f"P{row:04d}", age, sex, "AB"[(row // 2) % 2], f"{pressure:.1f}", "ill" if ill else "well"]
        lines.append(",".join(cells + (["70"] if i == 0 else [])))
    where.mkdir(parents=True, exist_ok=True)
    (where / "rows.csv").write_text("\n".join(lines) + "\n")
    return where / "rows.csv"


def write_site(where: Path, i: int, federation: str) -> Path:
    """A site's folder → the path of site.toml."""
    write_rows(where, i)
    (where / "federation.toml").write_text(federation)
    (where / "site.toml").write_text(
        f'name = "clinic-{i}"\nthreads = 1\n[data]\npath = "rows.csv"\nlabel_column = "outcome"\n'
    )
    return where / "site.toml"


def federation(rows: str = "", **changes: object) -> str:
    """federation.toml: the settings, some of them changed, and the section [rows]."""
    lines = [line for line in SETTINGS.splitlines() if line.partition(" = ")[0] not in changes]
    return "\n".join((*(f"{key} = {value}" for key, value in changes.items()), *lines, rows or ROWS)) + "\n"


ROWS = """
[rows]
kind = "tabular"
features = ["age", "sex=f", "sex=m", "sex=(missing)", "ward=A", "ward=B", "pressure", "age=(missing)"]
classes = ["ill", "well"]
missing = "indicator"
"""


MEAN = """
[rows]
kind = "tabular"
features = ["age", "sex=f", "sex=m", "ward=A", "ward=B", "pressure"]
classes = ["ill", "well"]
missing = "mean"
"""


def post_of(*sites: Path) -> LocalPost:
    """Sites as their SuperNodes would open them, anew."""
    return LocalPost({100 + place: open_site(str(path)) for place, path in enumerate(sites)})


@dataclass
class Reopening(LocalPost):
    """Messages open these sites anew, as a process per message does; before each, something may happen to files."""

    paths: dict[int, Path] = field(default_factory=dict)
    before: Callable[[Parcel], None] = lambda request: None

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        answers: dict[int, Parcel] = {}
        for node, request in requests.items():
            self.before(request)
            if node in self.paths:
                self.sites[node] = open_site(str(self.paths[node]), request.header.get("run"))
            answers |= super().ask({node: request}, deadline_s)
        return answers


def reopening(*sites: Path, before: Callable[[Parcel], None] = lambda request: None) -> Reopening:
    """A post whose second site is opened for every message."""
    opened = {node: open_site(str(path)) for node, path in enumerate(sites, 100)}
    return Reopening(opened, paths={101: sites[1]}, before=before)


def settings_of(site: Path) -> FederationSettings:
    return read(FederationSettings, site.parent / "federation.toml")
