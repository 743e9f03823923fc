"""What happens where something goes wrong: every fault once, over real processes, as a Markdown table.

    .venv/bin/python benchmarks/faults.py --out runs/faults
    .venv/bin/python benchmarks/faults.py --out runs/faults --only killed
    .venv/bin/python benchmarks/faults.py --noise 20

A SuperLink and three sites (`fedgmi site serve`) with TLS and authentication, as processes. A site spoils its answer
(faulty_site.py), or something is done to it from here (fault_acts.py); about a minute a fault. One that ended well
lies in --out as JSON and is read, not repeated.
Exits with 1 where a run did not end as it should: the row then says FAILED.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fault_cases import BAD, FAULTS, FEDERATION, ROUNDS, SITES, write_site

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.local.deployment import running
from fedgmi.deploy.settings import FederationSettings, read
from fedgmi.deploy.site.memory import Memory
from fedgmi.errors import FedgmiError, UserError
from fedgmi.flower_app import open_site
from fedgmi.mixture.matching import match_components, reorder, total_variation
from fedgmi.protocol.wire import Parcel
from fedgmi.protocol.words import one_line
from fedgmi.report.formats import markdown_table
from fedgmi.runs import records
from fedgmi.storage import checkpoint, files, folder

APP, SITE = Path(__file__).parent / "faulty_app" / "server_app.py", Path(__file__).parent / "faulty_site.py"
LIKELY_FIX = re.compile(r" Likely fix: .*")
SHOWN = 160  # letters of a line
SAME = 1e-4  # between runs that ought to be one: total variation, and share of the experts' length


def measure(name: str, where: Path) -> dict[str, Any]:
    """Run the fault in a new folder → what came of it."""
    fault = FAULTS[name]
    shutil.rmtree(where, ignore_errors=True)
    text = FEDERATION.replace("§waiting", fault.waiting).replace("§robust", fault.robust)
    sites = [write_site(where / f"site-{i}", i) for i in range(SITES)]
    if fault.kind:
        about = {"kind": fault.kind} | ({} if fault.kind == "version" else {"round": 1})
        files.write_json(sites[BAD].parent / "fault.json", about)
    program = (sys.executable, str(SITE)) if fault.kind else ("fedgmi",)
    os.environ["FLWR_LOG_LEVEL"] = "INFO"  # by Flower's word the acts see that a site is there
    found: dict[str, Any] = {
        "name": name,
        "ended": False,
        "resumed": False,
        "why": "",
        "proportions": None,
        "experts": None,
        "absent": [],
    }
    with running(where / "deployment", "wards", text, sites, late=fault.late, program=program) as deployment:
        shutil.copy(APP, deployment.app)
        began = time.monotonic()
        try:
            found["resumed"] = fault.run(deployment)
            summary = records.Summary.read(deployment.out).to_json()
            found |= {"ended": True, "proportions": summary["proportions"], "absent": summary["rounds_absent"]}
            settings = read(FederationSettings, deployment.app / "federation.toml")
            found["experts"] = experts_of(settings, deployment.out)
        except FedgmiError as error:
            found["why"] = " ".join(str(error).split())
        found["seconds"] = time.monotonic() - began
        log = log_of(sites[BAD].parent) if fault.at_site else deployment.log()
        found["line"] = line_that_says(fault.said, log.replace(f"{where}{os.sep}", ""))
        found["missing"] = [what for site in sites for what in missing(site.parent)]
    found["left"] = len(deployment.left())
    return found


def experts_of(settings: FederationSettings, out: Path) -> list[list[float]]:
    """The experts' parameters at the end, a row a component."""
    kept = checkpoint.load(out / folder.CHECKPOINTS, settings.method.name, digest=settings.digest())
    assert kept is not None
    return kept.server["expert"].tolist()


def log_of(site: Path) -> str:
    """A site's own log.txt, so far."""
    path = site / "site" / "log.txt"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def line_that_says(what: str, log: str) -> str | None:
    """The first line of a log that says it, without its time."""
    found = next((line for line in log.splitlines() if re.search(what, line)), None)
    return None if found is None else re.sub(r"^[\d-]+ [\d:]+ ", "", found)


def missing(site: Path) -> list[str]:
    """What a site should have on its disk at the end, and has not: predictor, proportions, its last two states."""
    name, own = site.name, site / "site"
    gone = [path for path in ("results/proportions.json", "results/model/model.json") if not (own / path).exists()]
    if gone:
        return [f"{name}: {path}" for path in gone]
    memory = Memory(own / "runs" / json.loads((own / "results" / "proportions.json").read_text())["run"])
    states = memory.exchanges()[-2:]
    try:
        kept = [at for at in states if memory.load(at) is not None]
    except UserError as error:
        return [f"{name}: {error}"]
    return [] if len(kept) == 2 else [f"{name}: states"]


def distance(found: dict[str, Any], clean: dict[str, Any] | None) -> tuple[float, float] | None:
    """How far from the run without a fault, components in the same order: proportions in total variation, the mean over
    sites; experts in share of their length, ‖Δ‖/‖θ‖."""
    if clean is None or found["proportions"] is None or clean["proportions"] is None:
        return None
    here, there = (torch.tensor(result["proportions"], dtype=torch.float64) for result in (found, clean))
    order = match_components(here, there)
    experts, theirs = (torch.tensor(result["experts"], dtype=torch.float64) for result in (found, clean))
    apart = (experts[order] - theirs).norm() / theirs.norm()
    return float(total_variation(reorder(here, order), there).mean()), float(apart)


def failures(found: dict[str, Any], clean: dict[str, Any] | None) -> list[str]:
    """What is not as it should be."""
    apart = distance(found, clean)
    wrong = {
        f"it did not end ({found['why']})": not found["ended"],
        "a site's proportions are unknown": found["ended"] and found["proportions"] is None,
        f"missing {', '.join(found['missing'])}": found["ended"] and bool(found["missing"]),
        "nothing in the log": found["line"] is None,
        "another result": FAULTS[found["name"]].same and apart is not None and max(apart) > SAME,
        f"{found['left']} processes left": found["left"] > 0,
    }
    return [what for what, true in wrong.items() if true]


class Here:
    """A post that calls the sites in this process."""

    def __init__(self, sites: Sequence[Path]) -> None:
        self._sites = [open_site(str(site)) for site in sites]

    def nodes(self) -> Iterable[int]:
        """One a site."""
        return range(1, len(self._sites) + 1)

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        """One after the other; nobody is late."""
        sent = {node: replace(each, header=json.loads(json.dumps(each.header))) for node, each in requests.items()}
        return {node: self._sites[node - 1].answer(parcel) for node, parcel in sent.items()}  # as over a network


def by_seed(seed: int, where: Path) -> dict[str, Any]:
    """What comes of the federation without faults from another seed, in this process."""
    text = f"seed = {seed}\n" + FEDERATION.replace("§waiting", "").replace("§robust", "")
    sites = [write_site(where / f"site-{i}", i) for i in range(SITES)]
    for place in (where, *(site.parent for site in sites)):
        files.write_text(place / "federation.toml", text)
    settings = read(FederationSettings, where / "federation.toml")
    summary = Coordinator(settings, Here(sites), where / "out", echo=lambda line: None).run()
    return summary | {"experts": experts_of(settings, where / "out")}


def noise(seeds: int) -> str:
    """How far apart runs without faults are, from one seed to the next: what a fault has to be seen beside."""
    with tempfile.TemporaryDirectory() as where:
        first, *others = (by_seed(seed, Path(where) / str(seed)) for seed in range(seeds + 1))
    found = [apart for other in others if (apart := distance(other, first)) is not None]
    kinds = {"TV": sorted(tv for tv, _ in found), "experts": sorted(far for _, far in found)}
    told = (f"{kind} median {statistics.median(far):.3f}, {far[0]:.3f} to {far[-1]:.3f}" for kind, far in kinds.items())
    return f"{seeds} other seeds to seed 0: {'; '.join(told)}"


def row(found: dict[str, Any], clean: dict[str, Any] | None) -> list[str]:
    """A fault's line of the table."""
    wrong, apart = failures(found, clean), distance(found, clean)
    absent = [f"site-{i} absent in {n} of {ROUNDS + 1}" for i, n in enumerate(found["absent"]) if n]
    how = "resumed" if found["resumed"] else "went on"
    return [
        FAULTS[found["name"]].what,
        f"FAILED: {'; '.join(wrong)}" if wrong else "; ".join([how, *absent]),
        ", ".join(found["missing"]) or "nothing",
        *(("–", "–") if apart is None else map(figure, apart)),
        "–" if found["line"] is None else f"`{one_line(LIKELY_FIX.sub(' …', found['line']), SHOWN)}`",
        f"{found['seconds']:.0f}",
    ]


def figure(apart: float) -> str:
    """A distance; what is nothing but rounding is told by its size."""
    return "0" if apart == 0 else f"{apart:.0e}" if apart < 0.001 else f"{apart:.3f}"


HEAD = ["fault", "the run", "missing at the end", "TV", "experts", "the log says", "s"]


def table(results: list[dict[str, Any]]) -> str:
    """All results as Markdown."""
    clean = next((result for result in results if result["name"] == "none"), None)
    return markdown_table(HEAD, [row(result, clean) for result in results])


def finished(out: Path) -> list[dict[str, Any]]:
    """The results that lie there, in the order of FAULTS."""
    paths = [out / f"{name}.json" for name in FAULTS]
    return [files.read_json(path, "a result", {"name", "ended"}, "remove it") for path in paths if path.exists()]


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    parser.add_argument("--only", choices=FAULTS, help="this fault alone; the table has what is there")
    parser.add_argument("--noise", type=int, metavar="SEEDS", help="only: how far apart runs of so many seeds are")
    options = parser.parse_args()
    if options.noise:
        print(noise(options.noise))
        return
    well = {result["name"] for result in finished(options.out) if not failures(result, None)}
    for name in [options.only] if options.only else FAULTS:
        if name not in well:
            found = measure(name, options.out.absolute() / name)
            files.write_json(options.out / f"{name}.json", found)
            print(f"done {name}", file=sys.stderr, flush=True)
    results = finished(options.out)
    print(table(results))
    clean = next((result for result in results if result["name"] == "none"), None)
    sys.exit(any(failures(result, clean) for result in results))


if __name__ == "__main__":
    main()
