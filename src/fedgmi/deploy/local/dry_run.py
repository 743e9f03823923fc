"""`fedgmi site dry-run`: the whole run in this process, over a site's own rows alone; what it would send lies on disk.

The site stands in for all sites, so that the messages are of the form and size that they will have. What others would
have brought is missing: models, and what is made of them, are others than in the real run. Noise is drawn from another
secret. Nothing is charged, counted or connected to.

Sites that are alike tell no components apart, and steps whose conditions go by that are left out. So the run is played
once more, in which each step that the first has left out is asked once whatever its condition says. What is made of its
message is thrown away. A step that cannot be asked even so is named.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
from rich.console import Console
from rich.text import Text

from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.deploy.coordinator.remote import Remote
from fedgmi.deploy.settings import LEAST_MASKED, FederationSettings, SiteSettings, read
from fedgmi.deploy.site.audit import line_of
from fedgmi.deploy.site.audit_view import NOTHING
from fedgmi.deploy.site.site import Site
from fedgmi.deploy.site.site_data import SiteRows, load_site
from fedgmi.errors import UserError
from fedgmi.protocol.message import flatten
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.step import Program, Step, keep
from fedgmi.protocol.wire import Header, Parcel, unpack
from fedgmi.protocol.words import one_line
from fedgmi.report.formats import bare_table, plural, size
from fedgmi.runs.setup import Setup
from fedgmi.storage import files

INDEX = "index.json"
OWN = 0  # the node whose answers are kept
NEVER_ASKED = "nothing came to ask for it, not even with its condition set aside"
MAY_BE = " (asked for on a condition, which does not hold where all sites are alike{})"
PHASES = {"prepare": "preparation", "finish": "end"}
Key = tuple[str, str]  # a step's name, and what it tells


class AllShown(Exception):
    """All that was left to be shown is there: nothing more need be played."""


@dataclass
class Recorder:
    """A post without a network, which keeps what one site sends.

    Attributes:
        sites: By node.
        out: Where it is kept.
        rounds: R, as it is played.
        last: The number of the round at the end, as lines have it.
        lines: What was kept: as in the audit log, with the `file`, and whether a condition was set aside for it.
        forced: Steps that are asked once whatever their conditions say. Where there are any, they alone are kept.
        prepared: Whether a warm start takes the place of the preparation, so that nothing of that is kept.
        conditions: On what steps are asked for, in words: a step may stand in several places.
        shown: Steps that were kept.
        program: What is asked.
        asked: The step that was asked last; None: it was none.
    """

    sites: dict[int, Site]
    out: Path
    rounds: int
    last: int
    lines: list[dict[str, Any]] = field(default_factory=list)
    forced: Collection[Key] = ()
    prepared: bool = False
    conditions: dict[Key, list[str]] = field(default_factory=dict)
    shown: set[Key] = field(default_factory=set)
    program: Program | None = None
    asked: Key | None = None

    def nodes(self) -> Iterable[int]:
        """All of them."""
        return list(self.sites)

    def ask(self, requests: dict[int, Parcel], deadline_s: float) -> dict[int, Parcel]:
        """Ask each in turn; headers are JSON, as on a wire."""
        requests = {node: replace(one, header=json.loads(json.dumps(one.header))) for node, one in requests.items()}
        step = self._step(requests[OWN].header) if OWN in requests else None
        self.asked = None if step is None else key_of(step)
        answers = {node: self.sites[node].answer(parcel) for node, parcel in requests.items()}
        wrong = [str(reply.header["error"]) for reply in answers.values() if "error" in reply.header]
        if wrong and not any(reply.header.get("missing") for reply in answers.values()):
            raise UserError(f"the site cannot answer: {wrong[0]}", where="dry run", fix="see fedgmi site check")
        if OWN in answers and not wrong:
            self._keep(requests[OWN].header, answers[OWN], step)
            if self.forced and self.shown.issuperset(self.forced):
                raise AllShown
        return answers

    def asking(self, step: Step) -> Step:
        """The step as it is asked. Where it is forced, nothing is made of its message: its state is none of its own."""
        key = key_of(step)
        if key not in self.forced:
            return step
        return replace(step, server=keep, when=lambda server: key not in self.shown)

    def _step(self, header: Header) -> Step | None:
        if header["kind"] != "step" or self.program is None:
            return None
        return self.program.steps(phase_of(header["round"], self.rounds))[header["step"]]

    def _keep(self, header: Header, reply: Parcel, step: Step | None) -> None:
        if self.prepared and header.get("round") == 0:
            return
        if self.forced and (step is None or key_of(step) not in self.forced):
            return
        if step is not None:
            self.shown.add(key_of(step))
        line = line_of(header, reply, step)
        if not line["leaves"] and any(line["name"] == before["name"] for before in self.lines):
            return  # greetings, and steps without a message, once each
        if line.get("round") == self.rounds + 1:
            line["round"] = self.last
        if "round" in line:
            line["phase"] = phase_of(header["round"], self.rounds)
        name = f"{len(self.lines):04d}-{re.sub(r'[^a-z0-9]+', '-', line['name'].lower())}"
        files.write_json(self.out / f"{name}.json", reply.header)
        if line["leaves"]:
            tensors = {leaf: tensor.contiguous() for leaf, tensor in flatten(unpack(reply)).items()}
            files.write_bytes(self.out / f"{name}.safetensors", safetensors.torch.save(tensors))
        about = {"conditional": bool(self.forced), "condition": self.condition(step) if self.forced and step else ""}
        self.lines.append(line | {"file": name} | about)

    def condition(self, step: Step) -> str:
        """On what a step is asked for, in words: on one of these, where it stands in several places."""
        return "; or: ".join(filter(None, dict.fromkeys(self.conditions.get(key_of(step), ()))))


@dataclass
class Rehearsal(Coordinator):
    """A coordinator that also asks what its post has it ask."""

    def _remote(self, setup: Setup, run: str) -> Remote:
        remote, post = super()._remote(setup, run), self.post
        assert isinstance(post, Recorder)
        program = remote.method.program
        same = {id(step): post.asking(step) for step in program.all_steps}  # a step in several places stays one

        def asked(steps: Iterable[Step]) -> tuple[Step, ...]:
            return tuple(same[id(step)] for step in steps)

        program = replace(
            program, prepare=asked(program.prepare), round=asked(program.round), finish=asked(program.finish)
        )
        post.program, remote.method = program, replace(remote.method, program=program)
        return remote


def key_of(step: Step) -> Key:
    """By what steps are told apart in a dry run: two of one key have messages of one form."""
    return step.name, step.tells


def dry_run(site_toml: Path, federation_toml: Path, out: Path, rounds: int | None = None) -> list[dict[str, Any]]:
    """Write what a site would send.

    Args:
        site_toml: The site's own settings.
        federation_toml: The federation's.
        out: A new folder: of each answer its header as JSON and its leaves as safetensors, and `index.json`.
        rounds: Fewer rounds than the federation's; None: all.

    Returns:
        The answers in order, as in the audit log, with the `file` of each, and whether it is `conditional`: its step
        has a condition that did not hold here, and may hold in the real run. Last come steps that could not be shown,
        with `why` and an empty `file`. `phase` is "prepare", "round" or "finish"; `condition` is in words.

    Raises:
        ConfigError: For settings that cannot be.
        DataError: For rows that are not what the federation agreed on.
        UserError: Where the folder exists, or the run would fail.
    """
    if out.exists():
        raise UserError("it is there already", where=str(out), fix="name a new folder with --out")
    settings, federation = read(SiteSettings, site_toml), read(FederationSettings, federation_toml)
    rows = load_site(settings, federation, site_toml.parent)
    if rounds is not None:
        federation = federation.model_copy(update={"rounds": rounds})
    r, warm = federation.rounds, federation.warm_start is not None
    post = Recorder({}, out, r, r + 1, prepared=warm)
    _play(settings, federation, rows, post)
    assert post.program is not None
    phases = () if warm else post.program.prepare, post.program.round, post.program.finish
    steps = {key_of(step): step for phase in phases for step in phase}
    for step in (step for phase in phases for step in phase):
        post.conditions.setdefault(key_of(step), []).append(_condition(step))
    once, post.rounds, why = federation.model_copy(update={"rounds": 1}), 1, dict[Key, str]()
    while missing := steps.keys() - post.shown - why.keys():
        post.forced = missing
        try:
            with suppress(AllShown):
                _play(settings, once, rows, post)
        except UserError as error:
            if post.asked not in missing:
                raise
            why[post.asked] = error.what
            continue  # with the others
        why |= dict.fromkeys(missing - post.shown, NEVER_ASKED)
    lost = {key: step for key, step in steps.items() if key not in post.shown}
    lines = [*post.lines, *(_not_shown(step, post.condition(step), why[key]) for key, step in lost.items())]
    files.write_text(out / INDEX, json.dumps(files.finite(lines), indent=1))
    return lines


def _condition(step: Step) -> str:
    """On what a step is asked for, as the first sentence of its documentation has it; "" where it has none."""
    decides = step.when.func if isinstance(step.when, partial) else step.when
    told = inspect.getdoc(decides) if decides is not None else None
    return re.split(r"\.(\s|$)", " ".join((told or "").split()))[0]


def _not_shown(step: Step, condition: str, why: str) -> dict[str, Any]:
    about = {"kind": "step", "name": step.name, "tells": step.tells, "leaves": [], "bytes": 0}
    return {**about, "file": "", "conditional": True, "condition": condition, "why": why}


def _play(settings: SiteSettings, federation: FederationSettings, rows: SiteRows, post: Recorder) -> None:
    """The whole run in a folder that is gone afterwards, with the site in the place of all sites."""
    least = LEAST_MASKED if federation.masked else 1
    n = max(least, federation.setup().n_components)  # as few sites as can tell the components apart
    played = federation.model_copy(update={"sites": n, "min_sites": None, "wait_s": 1.0, "warm_start": None})
    with tempfile.TemporaryDirectory(prefix="fedgmi-") as folder:
        where = Path(folder)
        parts = rows.train, rows.held_out, rows.digest, rows.validation, rows.content
        own = Site(settings, played, where / "0", *parts)
        post.sites = {OWN: own}
        for other in range(1, n):
            named = settings.model_copy(update={"name": f"{settings.name} (again, {other})"})
            post.sites[other] = replace(own, settings=named, where=where / str(other))
        Rehearsal(played, post, where / "out", echo=lambda line: None).run()


def print_dry_run(lines: list[dict[str, Any]], out: Path, console: Console) -> None:
    """What would be sent, an answer a row; then what could not be shown."""
    table = bare_table("What would be sent", ["file", "round", "leaves", "size", "tells"])
    shown = [line for line in lines if line["file"]]
    for line in shown:
        leaves = "\n".join(f"{leaf['name']} {leaf['dtype']} {leaf['shape']}" for leaf in line["leaves"])
        named = f": “{line['condition']}”" if line["condition"] else ""
        tells = f"{line['tells'] or NOTHING}{MAY_BE.format(named) if line['conditional'] else ''}"
        at = PHASES.get(line.get("phase", ""), str(line.get("round", "")))
        cells = line["file"], at, leaves or "none", size(line["bytes"]), tells
        table.add_row(*map(Text, cells))
    console.print(table)
    for line in lines:
        if not line["file"]:
            told = f" ({line['tells']})" if line["tells"] else ""
            console.print(Text(one_line(f"Not shown: {line['name']}{told}: {line['why']}"), style="yellow"))
    total = sum(line["bytes"] for line in shown)
    console.print(Text(f"{plural(len(shown), 'answer')}, {size(total)}, in {out}. Nothing was sent."))
