"""What a site does: it answers requests about its own rows, which never leave it.

`Site.answer` knows nothing of networks. Requests build on a named exchange, and answering one twice answers the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fedgmi import __version__, tree
from fedgmi.data.rows import Client, Rows
from fedgmi.data.rows import pack as pack_rows
from fedgmi.deploy.settings import FederationSettings, SiteSettings
from fedgmi.deploy.site import results
from fedgmi.deploy.site.memory import Exchange, Kept, Memory, StateLost, memory_of
from fedgmi.deploy.site.requests import check_place, within
from fedgmi.errors import DataError, DivergedError, FedgmiError, UserError
from fedgmi.methods import Method
from fedgmi.methods.contract import first_states
from fedgmi.protocol.agreed import Agreed, not_finite_words
from fedgmi.protocol.blocks import ROUNDS_HELD, first_blocks
from fedgmi.protocol.message import Message, flatten, unflatten
from fedgmi.protocol.opening import received, tree_of
from fedgmi.protocol.phases import phase_of, require_finite
from fedgmi.protocol.secure_sum import seen_singly
from fedgmi.protocol.wire import Header, Parcel, WireError, pack
from fedgmi.protocol.wrapper import Place, apart, marked, send
from fedgmi.runs.setup import choose_device, open_process
from fedgmi.storage import files
from fedgmi.tree import Tree

if TYPE_CHECKING:
    from fedgmi.deploy.site.masking import Masking


@dataclass(frozen=True)
class Site:
    """A site and its rows.

    Attributes:
        settings: site.toml.
        federation: federation.toml.
        where: The site's own folder.
        train: The rows to train on, in their own units.
        held_out: The rows to test its predictor on; None where there are none.
        digest: Of all rows, hex. It changes whenever a row does.
        validation: The rows by which things are chosen; None where there are none.
    """

    settings: SiteSettings
    federation: FederationSettings
    where: Path
    train: Client
    held_out: Client | None
    digest: str
    validation: Client | None = None

    def answer(self, request: Parcel) -> Parcel:
        """Answer a request.

        An error about rows may quote them, and an unforeseen failure may quote anything. These stay in the site's log.

        Args:
            request: The coordinator's.

        Returns:
            The reply. Where the site cannot answer, its header has `error`, one line.
        """
        open_process(self.settings.threads)
        try:
            return self._answer(request)
        except WireError as error:
            if not error.missing:
                log(self.where, error)
            return Parcel({"error": str(error), "missing": error.missing})
        except Exception as error:
            log(self.where, error)
            kinds = {"lost": isinstance(error, StateLost), "diverged": isinstance(error, DivergedError)}
            about = {name: True for name, true in kinds.items() if true}
            return Parcel({"error": f"{self.settings.name}: {disclosable(error)}"} | about)

    def _answer(self, request: Parcel) -> Parcel:
        header = request.header
        self._agree(header)
        if header["kind"] == "hello":
            self._keep_plan(header)
            return Parcel(self._hello())
        memory = memory_of(self.where, str(header["run"]))
        with memory.alone():
            site = replace(self, federation=self.federation.planned(memory.plan()))
            if header["kind"] == "masks":
                return site._masking(header, memory).answer(header)
            server = site._take(request, memory)
            if header["kind"] == "step":
                return site._step(header, request, server, memory)
            if header["kind"] == "finish":
                return site._finish(header, server, memory)
        raise UserError(
            f"there is no request of kind {str(header['kind'])[:20]!r}", where="request", fix="update fedgmi"
        )

    def _keep_plan(self, header: Header) -> None:
        """Keep the plan that a greeting brings. One that cannot be is refused now rather than later."""
        chosen = header.get("plan")
        self.federation.planned(chosen)
        if chosen or "run" in header:
            memory = memory_of(self.where, str(header["run"]))
            if chosen or memory.plan() is not None:
                with memory.alone():
                    memory.keep_plan(chosen)

    def _agree(self, header: Header) -> None:
        """Both sides must have the same software and the same federation.toml."""
        if header.get("version") != __version__:
            raise UserError(
                f"the coordinator has fedgmi {header.get('version')}, this site {__version__}",
                where="fedgmi",
                fix="install the same version everywhere",
            )
        if header.get("federation") != self.federation.digest():
            raise UserError(
                "the coordinator's federation.toml is another than this site's",
                where="federation.toml",
                fix="copy the coordinator's to the site, and check it with: fedgmi site check",
            )

    def _hello(self) -> Header:
        held_out = 0 if self.held_out is None else len(self.held_out)
        return {"site": self.settings.name, "rows": len(self.train), "held_out": held_out}

    def _take(self, request: Parcel, memory: Memory) -> Tree:
        """What the request sends of the server's state, with what is kept of it here."""
        method = self.method()
        program = method.program
        step = check_place(request.header, program, self.federation)
        chain = self.federation.coding().broadcast(program)
        rounds, decode = (ROUNDS_HELD, None) if chain is None else (chain.rounds_held, chain.decode)
        held = memory.blocks()
        if chain is not None and not held:
            held = first_blocks(chain.settle({}, program.init(), 0, "start"))
            memory.keep_blocks(held, 0, rounds)
        reads = method.predictor.reads if step is None else (*step.reads, *method.predictor.reads)
        agreed = Agreed.of(program, reads, max(self.federation.sites, self.federation.setup().n_components))
        blocks = received(request, held, decode, agreed)
        server = tree_of(request.header, blocks)
        broken = tree.not_finite(server)
        if broken is not None:
            raise WireError(not_finite_words(server, broken))
        memory.keep_blocks(blocks, int(request.header["round"]), rounds)
        return server

    def _step(self, header: Header, request: Parcel, server: Tree, memory: Memory) -> Parcel:
        at, same = (int(header["round"]), int(header["number"])), fingerprint(request)
        kept = memory.load(at)
        if kept is None or kept.request != same:
            kept = self._run(header, server, memory, same)
            memory.save(at, kept, _base_of(header))
        return pack(unflatten(kept.reply), {"rows": len(self.train)})

    def _run(self, header: Header, server: Tree, memory: Memory, same: str) -> Kept:
        """The client's part of a step, from the state that the request builds on."""
        method, rows = self.method(), self._rows(self.train, header, self.validation)
        server, state = self._states(header, method, server, rows, memory)
        steps = method.program.steps(phase_of(int(header["round"]), self.federation.rounds))
        step = steps[int(header["step"])]
        cache = memory.where / "cache.safetensors"
        results.read_cache(cache, self._cache_key(header), rows)
        known, (state, unsent) = dict(rows.cache), apart(state)
        at = int(header["round"]), int(header["number"])
        place = Place.of(step, server, int(header["id"]), (), at, self.federation.seed, unsent)
        with torch.no_grad():
            state, message = step.client(server, state, rows, at[0])
        if any(known.get(name) is not leaf for name, leaf in rows.cache.items()):
            results.write_cache(cache, self._cache_key(header), rows)
        require_finite(flatten(message), self.settings.name, at[0])
        require_finite(state, self.settings.name, at[0])
        sent, left = send(self.federation.coding().wrappers(method.program), message, place)
        if self.federation.masked and not seen_singly(step) and flatten(sent):
            sent = self._masking(header, memory).hide(sent, header)
        state = state | marked(unsent | left)
        return Kept(tree.to(state, "cpu"), tree.to(flatten(sent), "cpu"), same)

    def _masking(self, header: Header, memory: Memory) -> Masking:
        """This site's part in masked sums.

        Raises:
            UserError: Where the federation has none.
        """
        from fedgmi.deploy.site.masking import Masking  # sites without masks do without cryptography

        if not self.federation.masked:
            raise UserError("federation.toml says nothing of masks", where="request", fix="ask the coordinator")
        within(header, "id", self.federation.sites - 1)
        n_sites, secret = self.federation.sites, self.settings.mask_secret
        where = memory.where, str(header["run"]), int(header["id"])
        return Masking(*where, n_sites, secret, lambda line: log(self.where, UserError(line, where="masks")))

    def _states(self, header: Header, method: Method, server: Tree, rows: Rows, memory: Memory) -> tuple[Tree, Tree]:
        """The server's state, and the site's that the request builds on, where the rows are."""
        server = tree.to(server, rows.x.device)
        return server, tree.to(self._base(header, method, server, rows, memory), rows.x.device)

    def _base(self, header: Header, method: Method, server: Tree, rows: Rows, memory: Memory) -> Tree:
        """The state that the request builds on. Where it names none: the first state, or that of a newcomer."""
        at = _base_of(header)
        if at is not None:
            kept = memory.load(at)
            if kept is None:
                raise StateLost(at)
            return kept.state
        return first_states(method, server, rows, int(header["round"]))

    def _finish(self, header: Header, server: Tree, memory: Memory) -> Parcel:
        """Keep the predictor, the proportions and the diagnosis; tell how good the predictor is on held-out rows."""
        method, rows = self.method(), self._rows(self.train, header)
        server, state = self._states(header, method, server, rows, memory)
        state, _ = apart(state)
        held_out = None if self.held_out is None else self._rows(self.held_out, header)
        schema = self.federation.rows.as_schema()
        found = results.quality(method.predictor, server, state, rows, held_out, schema)
        known = {"quality": found, "diagnosis": header.get("diagnosis"), "run": header["run"]}
        results.write(
            self.where, self.federation.setup(), self.federation.name, self.settings.name, server, state, known
        )
        numbers = found.get("metrics", {}) | {"majority_accuracy": found.get("majority_accuracy")}
        told = {name: torch.tensor([v], dtype=torch.float64) for name, v in numbers.items() if v is not None}
        return pack(Message(replies=told), {"rows": len(self.train)})

    def method(self) -> Method:
        """The method that the federation runs, with this site's own secret, and the part of its steps that it makes."""
        own = self.settings.part_of_steps
        return self.federation.running(self.federation.setup().method(secret=self._secret(), part=own))

    def _rows(self, client: Client, header: Header, validation: Client | None = None) -> Rows:
        """The client's rows under its index in the federation."""
        held, device = () if validation is None else (validation,), choose_device(self.settings.device)
        packed, ids = pack_rows([client], device=device, validation=held), (int(header["id"]),)
        held_rows = packed.validation and replace(packed.validation, ids=ids)
        return replace(packed, ids=ids, validation=held_rows)

    def _cache_key(self, header: Header) -> str:
        """What rows keep between two exchanges holds for one start of the coordinator and the same rows."""
        return f"{header['attempt']} {self.digest}"

    def _secret(self) -> str:
        """What noise is drawn from: drawn once, anew when the rows change, never sent."""
        path = self.where / "secret.json"
        if path.exists():
            found = files.read_json(path, "a secret of fedgmi", {"rows", "secret"}, "remove it; another is then drawn")
            if found["rows"] == self.digest:
                return str(found["secret"])
        secret = secrets.token_hex(32)
        before = os.umask(0o077)  # at no moment is it for others to read
        try:
            files.write_json(path, {"rows": self.digest, "secret": secret})
        finally:
            os.umask(before)
        return secret


def _base_of(header: Header) -> Exchange | None:
    """The exchange that a request builds on."""
    base = header["base"]
    return None if base is None else (int(base[0]), int(base[1]))


def disclosable(error: Exception) -> str:
    """What a coordinator may know of a failure: nothing that could quote a row."""
    if isinstance(error, FedgmiError) and not isinstance(error, DataError):
        return " ".join(str(error).split())
    kind = "its rows cannot be used" if isinstance(error, DataError) else f"{type(error).__name__}"
    return f"{kind}; the site's log.txt says more"


def log(where: Path, error: Exception) -> None:
    """The whole of it, for the site's own eyes."""
    with files.writing(where):
        where.mkdir(parents=True, exist_ok=True)
        with (where / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {''.join(traceback.format_exception(error))}\n")


def fingerprint(request: Parcel) -> str:
    """A hash of all that a request asks, whichever blocks came with it."""
    asked = {k: v for k, v in request.header.items() if k not in ("sent", "sizes", "forms", "attempt")}
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=16).hexdigest()
