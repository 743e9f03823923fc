"""`fedgmi site dry-run`: the whole run in this process, over a site's own rows alone; what it would send lies on disk.

The site stands in for all sites, so that the messages are of the form and size that they will have. What others would
have brought is missing: models, and what is made of them, are others than in the real run. Noise is drawn from another
secret. Nothing is charged, counted or connected to.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from rich.console import Console
from rich.text import Text

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.settings import LEAST_MASKED, FederationSettings, SiteSettings, read
from fedgmi.deploy.site.audit import line_of
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.site_data import load_site
from fedgmi.errors import UserError
from fedgmi.protocol.message import flatten
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.wire import Parcel, unpack
from fedgmi.report.formats import bare_table, plural, size
from fedgmi.storage import files

INDEX = "index.json"
OWN = 0  # the node whose answers are kept


@dataclass
class Recorder:
    """A post without a network, which keeps what one site sends.

    Attributes:
        sites: By node.
        out: Where it is kept.
        lines: What was kept: as in the audit log, with the `file`.
    """

    sites: dict[int, Site]
    out: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    def nodes(self) -> Iterable[int]:
        """All of them."""
        return list(self.sites)

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        """Ask each in turn; headers are JSON, as on a wire."""
        requests = {node: replace(one, header=json.loads(json.dumps(one.header))) for node, one in requests.items()}
        answers = {node: self.sites[node].answer(parcel) for node, parcel in requests.items()}
        wrong = [str(reply.header["error"]) for reply in answers.values() if "error" in reply.header]
        if wrong and not any(reply.header.get("missing") for reply in answers.values()):
            raise UserError(f"the site cannot answer: {wrong[0]}", where="dry run", fix="see fedgmi site check")
        if OWN in answers and not wrong:
            self._keep(requests[OWN], answers[OWN])
        return answers

    def _keep(self, request: Parcel, reply: Parcel) -> None:
        header, site = request.header, self.sites[OWN]
        step = None
        if header["kind"] == "step":
            step = site.method().program.steps(phase_of(header["round"], site.federation.rounds))[header["step"]]
        line = line_of(header, reply, step)
        if not line["leaves"] and any(line["name"] == before["name"] for before in self.lines):
            return  # greetings, and steps without a message, once each
        name = f"{len(self.lines):04d}-{re.sub(r'[^a-z0-9]+', '-', line['name'].lower())}"
        files.write_json(self.out / f"{name}.json", reply.header)
        if line["leaves"]:
            tensors = {leaf: tensor.contiguous() for leaf, tensor in flatten(unpack(reply)).items()}
            files.write_bytes(self.out / f"{name}.safetensors", safetensors.torch.save(tensors))
        self.lines.append(line | {"file": name})


def dry_run(site_toml: Path, federation_toml: Path, out: Path, rounds: int | None = None) -> list[dict[str, Any]]:
    """Write what a site would send.

    Args:
        site_toml: The site's own settings.
        federation_toml: The federation's.
        out: A new folder: of each answer its header as JSON and its leaves as safetensors, and `index.json`.
        rounds: Fewer rounds than the federation's; None: all.

    Returns:
        The answers in order, as in the audit log, with the `file` of each.

    Raises:
        ConfigError: For settings that cannot be.
        DataError: For rows that are not what the federation agreed on.
        UserError: Where the folder exists, or the run would fail.
    """
    if out.exists():
        raise UserError("it is there already", where=str(out), fix="name a new folder with --out")
    settings, federation = read(SiteSettings, site_toml), read(FederationSettings, federation_toml)
    rows = load_site(settings, federation, site_toml.parent)
    least = LEAST_MASKED if federation.masked else 1
    n = max(least, federation.setup().n_components)  # as few sites as can tell the components apart
    played = federation.model_copy(
        update={"sites": n, "min_sites": None, "wait_s": 1.0} | ({} if rounds is None else {"rounds": rounds})
    )
    with tempfile.TemporaryDirectory(prefix="fedgmi-") as folder:
        where = Path(folder)
        parts = rows.train, rows.held_out, rows.digest, rows.validation, rows.content
        own = Site(settings, played, where / "0", *parts)
        sites = {OWN: own}
        for other in range(1, n):
            named = settings.model_copy(update={"name": f"{settings.name} (again, {other})"})
            sites[other] = replace(own, settings=named, where=where / str(other))
        post = Recorder(sites, out)
        Coordinator(played, post, where / "out", echo=lambda line: None).run()
    files.write_text(out / INDEX, json.dumps(files.finite(post.lines), indent=1))
    return post.lines


def print_dry_run(lines: list[dict[str, Any]], out: Path, console: Console) -> None:
    """What would be sent, an answer a row."""
    table = bare_table("What would be sent", ["file", "round", "leaves", "size", "tells"])
    for line in lines:
        leaves = "\n".join(f"{leaf['name']} {leaf['dtype']} {leaf['shape']}" for leaf in line["leaves"])
        cells = line["file"], str(line.get("round", "")), leaves or "none", size(line["bytes"]), line["tells"]
        table.add_row(*map(Text, cells))
    console.print(table)
    total = sum(line["bytes"] for line in lines)
    console.print(Text(f"{plural(len(lines), 'answer')}, {size(total)}, in {out}. Nothing was sent."))
