"""Is my federation a mixture? What `fedgmi diagnose` says of real federations, in figures and in words, as a table.

    .venv/bin/python benchmarks/mixture_or_not.py --data ../shared/data --out runs/mixture-or-not

Federations are those of configs/, as they stand there, but for where their data lie and for the seed. One whose data
are not in --data is left out. A finished diagnosis lies in --out and is read, not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from fedgmi.report.explained_words import headline
from fedgmi.report.formats import markdown_table, short_share
from fedgmi.runs import config
from fedgmi.runs.diagnose import run
from fedgmi.runs.records import DiagnosisRecord
from fedgmi.storage import folder

CONFIGS = Path(__file__).parents[1] / "configs"
REAL = (
    "fed-heart-disease",
    "fed-heart-disease-flamby",
    "fed-tcga-brca",
    "adult",
    "watch-exercises",
    "wisdm",
    "landmine",
    "us-math",
    "school",
    "school-scores",
    "femnist-writers",
)
MADE = (
    "digits",
    "mnist-rotation",
    "mnist-labels",
    "mnist-label-swap",
    "mnist-domain",
    "mnist-mixed",
    "mnist-pathological",
    "fashion-mnist",
    "cifar10-rotation",
    "cifar10-labels",
)
HEAD = ["federation", "clients", "rows", "K̂", "mixture p", "explained", "own scatter φ̂", "what it says"]


def diagnosed(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any] | None:
    """What `diagnosis.json` holds; None where the data are not there."""
    out = options.out / f"{name}-{seed}"
    if not (out / folder.DIAGNOSIS).exists():
        changes = [f"seed={seed}", *options.set]
        path = config.load(CONFIGS / f"{name}.toml").data.path
        if path != "digits":
            data = options.data / Path(path).name
            if not data.exists():
                return None
            changes.append(f"data.path={data}")
        run(config.load(CONFIGS / f"{name}.toml", changes), out)
        print(f"done {out.name}", flush=True)
    return DiagnosisRecord.read(out).to_json()


def line(name: str, found: list[dict[str, Any]]) -> list[str]:
    """A federation's cells: figures and the sentence of the first seed, and how K̂ and p vary over all."""
    first = found[0]
    return [
        name,
        str(len(first["clients"])),
        f"{sum(first['rows_per_client']):,}",
        over_seeds([str(each["n_components"]) for each in found]),
        over_seeds([chance(each["p_value"]) for each in found]),
        share(first),
        f"{first['own_scatter']:.1f} [{', '.join(f'{end:.1f}' for end in first['own_scatter_interval'])}]",
        " ".join(headline(first)),
    ]


def over_seeds(told: list[str]) -> str:
    """One value where all seeds agree, all of them in order where they do not."""
    return told[0] if len(set(told)) == 1 else " ".join(told)


def chance(p_value: float) -> str:
    """A p-value in a table."""
    if p_value < 0.001:
        return "< .001"
    return short_share(p_value) if p_value >= 0.01 else f"{p_value:.3f}".removeprefix("0")


def share(found: dict[str, Any]) -> str:
    """What K components explain, with its interval; a dash where nothing differs, and for one component."""
    if found["explained"] is None or found["explained_interval"] is None or found["n_components"] == 1:
        return "–"
    low, high = found["explained_interval"]
    return f"{short_share(found['explained'])} [{short_share(low)}, {short_share(high)}]"


def main() -> None:
    """Diagnose what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of data sets' folders")
    parser.add_argument("--out", type=Path, default=Path("runs/mixture-or-not"))
    parser.add_argument("--names", nargs="+", default=[*REAL, *MADE], help="of configs/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1000, 1001, 1002])
    parser.add_argument("--set", action="append", default=[], help="settings, as fedgmi diagnose takes them")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in options.names:
        found = [each for seed in options.seeds if (each := diagnosed(name, seed, options)) is not None]
        rows += [line(name, found)] if found else []
    print(f"\n{markdown_table(HEAD, rows)}")


if __name__ == "__main__":
    main()
