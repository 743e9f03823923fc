"""Three sites with small tables of numbers on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FEATURES = ("age", "pulse", "weight", "height")


def table_federation(rounds: int = 1, wait_s: float = 60.0, deadline_s: float = 60.0, sites: int = 3) -> str:
    """`federation.toml` for them, with as few exchanges as there can be."""
    return f"""
name = "wards"
sites = {sites}
wait_s = {wait_s}
deadline_s = {deadline_s}
rounds = {rounds}

[rows]
kind = "tabular"
features = {list(FEATURES)!r}
classes = ["sick", "well"]

[method]
n_components = 2
codewords = 4
kmeans_rounds = 1
calibration_steps = 1
judge_turns = 2
warm_up_rounds = 1

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


def rows(i: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Of two kinds of patients, in proportions of the site's own: x [n, 4] and whether they are well."""
    draws = np.random.default_rng(i)
    kind = draws.random(n) < (0.2, 0.5, 0.8)[i % 3]
    x = draws.normal(60, 10, (n, 4)) + 25 * kind[:, None]
    well = (x[:, 0] > x[:, 1]) ^ kind
    return x, well


def write_site(where: Path, i: int, federation: str | None = None) -> Path:
    """A folder with rows.csv, site.toml and federation.toml → the path of site.toml."""
    where.mkdir(parents=True)
    x, well = rows(i)
    lines = [",".join((*FEATURES, "state"))]
    lines += [
        ",".join((*(f"{value:.3f}" for value in row), "well" if w else "sick")) for row, w in zip(x, well, strict=True)
    ]
    (where / "rows.csv").write_text("\n".join(lines) + "\n")
    (where / "site.toml").write_text(
        f'name = "site-{i}"\nthreads = 1\n[data]\npath = "rows.csv"\nlabel_column = "state"\n'
    )
    (where / "federation.toml").write_text(federation or table_federation())
    return where / "site.toml"
