"""What a site does: it answers requests about its own rows, which never leave it.

`Site.answer` knows nothing of networks. Requests build on a named exchange, and answering one twice answers the same.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fedgmi import __version__, tree
from fedgmi.data.rows import Client, Rows
from fedgmi.data.rows import pack as pack_rows
from fedgmi.deploy import private
from fedgmi.deploy.settings import FederationSettings, SiteSettings, check_limits, tells_metrics
from fedgmi.deploy.settings.plan import planned
from fedgmi.deploy.site import results, snapshot
from fedgmi.deploy.site.audit import Audit
from fedgmi.deploy.site.guard import Guard, OverLimit, Refused, Turn, version_of
from fedgmi.deploy.site.memory import Exchange, Kept, Memory, StateLost, forget_runs, memory_of
from fedgmi.deploy.site.own_log import log, note
from fedgmi.deploy.site.own_secret import secret_of
from fedgmi.deploy.site.requests import check_header, check_place, fingerprint, within
from fedgmi.deploy.site.sums import OtherSites, Sums
from fedgmi.deploy.site.telling import disclosable
from fedgmi.errors import DivergedError, LimitError, RequestError, UserError
from fedgmi.methods import Method
from fedgmi.methods.contract import first_states
from fedgmi.privacy.accountant import composed
from fedgmi.privacy.ledger import PrivacyLedger
from fedgmi.protocol.agreed import Agreed, leaf_of, not_finite_words
from fedgmi.protocol.blocks import first_blocks
from fedgmi.protocol.codecs.broadcast import rounds_held
from fedgmi.protocol.message import Message, flatten, unflatten
from fedgmi.protocol.opening import received, tree_of
from fedgmi.protocol.phases import phase_of, require_finite
from fedgmi.protocol.private_sum import noisy_by_itself
from fedgmi.protocol.secure_sum import seen_singly
from fedgmi.protocol.step import Step
from fedgmi.protocol.wire import TOKEN, TOKEN_LETTERS, Header, Parcel, WireError, pack
from fedgmi.protocol.words import one_line
from fedgmi.protocol.wrapper import Place, Wrapper, apart, marked, send
from fedgmi.runs.private import wrappers_of
from fedgmi.runs.setup import choose_device, open_process
from fedgmi.tree import Tree

if TYPE_CHECKING:
    from fedgmi.deploy.site.masking import Masking
    from fedgmi.deploy.site.private import Account

LEDGER = "ledger.json"


@dataclass(frozen=True)
class Site:
    """A site and its rows.

    Attributes:
        settings: site.toml.
        federation: federation.toml.
        where: The site's own folder.
        train: The rows to train on, in their own units.
        held_out: The rows to test its predictor on; None where there are none.
        digest: Of all rows, hex. It changes whenever a row does, or its part.
        validation: The rows by which things are chosen; None where there are none.
        content: Of the rows of the file, whichever part each is in, hex; "": the digest counts.
    """

    settings: SiteSettings
    federation: FederationSettings
    where: Path
    train: Client
    held_out: Client | None
    digest: str
    validation: Client | None = None
    content: str = ""
    _methods: dict[str, Method] = field(default_factory=dict, init=False, repr=False, compare=False)  # by secret

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
            told: Header = {"error": disclosable(error), "missing": error.missing}
            told |= {"summed": list(error.summed)} if isinstance(error, OtherSites) else {}
            reply = Parcel(self._named(request) | told)
            if error.missing:
                return self._asks_again(request, reply)
            self._note(request, error)
            return reply
        except Exception as error:
            self._note(request, error)
            kinds = {"lost": StateLost, "diverged": DivergedError, "limit": LimitError}
            about: Header = {name: True for name, kind in kinds.items() if isinstance(error, kind)}
            if hasattr(error, "unopened"):  # `masks.keys.Unsealed`, which takes cryptography
                about["unopened"] = error.unopened
            return Parcel(self._named(request) | {"error": disclosable(error)} | about)

    def _asks_again(self, request: Parcel, reply: Parcel) -> Parcel:
        """Blocks are missing, and which ones leaves the site: that is noted like all that leaves, or does not leave."""
        try:
            self.audit().left(request.header, reply, None, again=True)
        except UserError as error:
            self._note(request, error)
            return Parcel(self._named(request) | {"error": disclosable(error)})
        return reply

    def _named(self, request: Parcel) -> Header:
        """Who cannot answer a greeting; later the coordinator knows."""
        return {"site": self.settings.name} if request.header.get("kind") == "hello" else {}

    def _answer(self, request: Parcel) -> Parcel:
        header = request.header
        check_header(request, self.settings.max_request_mb)
        check_limits(self.settings, self.federation)
        self._agree(header)
        if header["kind"] == "hello":
            self._keep_plan(header)
            self._check_account(header)
            site = self._greeted(header)
            reply = Parcel(site._hello(header))
            self.audit().left(header, reply, None, data=site.version)
            return reply
        memory = memory_of(self.where, str(header.get("run")))
        with self.guard().alone():
            site = self._pinned(memory)._under(planned(self.federation, memory.plan()))
            guard = site.guard()
            if header["kind"] == "masks":
                return site._told_of_masks(header, memory, guard)
            server, turn, step = site._take(request, memory, guard)
            site._keep_rows(memory)
            paid = site._paid(header, turn) if step is not None and step.tells else None
            write = None
            if step is None:
                reply, write = site._finish(header, server, memory, turn)
            else:
                reply = site._step(request, step, server, memory, turn)
            again = not (turn.new or self.federation.masked)  # under other keys of masks it is another message
            self.audit().left(header, reply, step, again=again, data=site.version)
            if paid is not None and turn.new:
                paid.left(turn.about.times, *turn.asked)
            guard.keep(turn, finished=step is None)
            if write is not None:
                write()
            forget_runs(self.where, guard.going_on(), guard.runs())
            return reply

    @property
    def version(self) -> str:
        """What runs and releases are counted by; see `guard.version_of`."""
        return version_of(self.content, self.digest)

    def guard(self) -> Guard:
        """What holds requests to the program's order."""
        return Guard(self.where, self.version, self.federation.rounds, self.settings.max_runs)

    def ledger(self) -> PrivacyLedger:
        """What the site has paid for its privacy."""
        own, compose = self.settings, composed(self.settings.max_delta)
        limits = own.max_epsilon, own.max_releases, own.most_delta
        return PrivacyLedger(self.where / LEDGER, *limits, self.version, compose)

    def audit(self) -> Audit:
        """What left, and what was refused."""
        return Audit(self.where)

    def _note(self, request: Parcel, error: Exception) -> None:
        """A request that is not answered, for the site's own eyes. It is refused on a full disk, too."""
        with suppress(UserError):
            log(self.where, error)
        with suppress(UserError):
            self.audit().refused(request.header, " ".join(str(error).split()) or type(error).__name__)

    def _keep_plan(self, header: Header) -> None:
        """Keep the plan that a greeting brings. One that cannot be is refused now rather than later."""
        chosen = header.get("plan")
        planned(self.federation, chosen)
        if not chosen and "run" not in header:
            return
        guard, memory = self.guard(), memory_of(self.where, str(header.get("run")))
        if (chosen or None) == memory.plan():
            return
        with guard.alone():
            if guard.has_begun(str(header["run"])):
                raise Refused("the request brings another plan than the run began with")
            memory.keep_plan(chosen)
            forget_runs(self.where, guard.going_on() | {str(header["run"])}, guard.runs())

    def _check_account(self, header: Header) -> None:
        """Refuse a run that this site cannot pay for before it has begun: once others have sent, they have paid."""
        run = str(header.get("run"))
        if "run" not in header or not self.federation.privacy.on or self.guard().has_begun(run):
            return
        from fedgmi.deploy.site.private import beyond

        site = self._under(planned(self.federation, header.get("plan")))
        over = beyond(site._account(header).cost, self.ledger())
        if over:
            self.ledger().refuse("a whole run", over)
            raise OverLimit(f"one run more would be {over}: the site can raise its limits in site.toml")

    def _greeted(self, header: Header) -> Site:
        """The site with the rows that it has for the run that greets it."""
        if "run" not in header:
            return self
        memory = memory_of(self.where, str(header["run"]))
        if snapshot.digest_of(memory.where) is not None:
            return self._pinned(memory)
        guard = self.guard()
        with guard.alone():
            self._keep_rows(memory)
            forget_runs(self.where, guard.going_on() | {str(header["run"])}, guard.runs())
        return self

    def _keep_rows(self, memory: Memory) -> None:
        """Keep the rows for the run, from its greeting or its first request that is answered."""
        if snapshot.digest_of(memory.where) is None:
            now = snapshot.Snapshot(self.train, self.held_out, self.validation, self.digest, self.content)
            snapshot.keep(memory.where, now)

    def _pinned(self, memory: Memory) -> Site:
        """The site with the rows that the run began with. One line in log.txt says where the file has others by now."""
        found = snapshot.digest_of(memory.where)
        if found is None or found == self.digest:
            return self
        if snapshot.first_told(memory.where, self.digest):
            n = len(self.train) + sum(len(part) for part in (self.held_out, self.validation) if part is not None)
            note(self.where, f"the rows have changed ({n} now): this run goes on with those that it began with")
        return replace(self, **snapshot.load(memory.where)._asdict())

    def _under(self, federation: FederationSettings) -> Site:
        """The site with what a budget's plan makes of the settings; itself where that is nothing."""
        return self if federation is self.federation else replace(self, federation=federation)

    def _agree(self, header: Header) -> None:
        """Both sides must have the same software and the same federation.toml."""
        if header.get("version") != __version__:
            raise RequestError(
                f"the coordinator has fedgmi {one_line(header.get('version'), 40)}, this site {__version__}",
                where="fedgmi",
                fix="install the same version everywhere",
            )
        if header.get("federation") != self.federation.digest():
            raise RequestError(
                "the coordinator's federation.toml is another than this site's",
                where="federation.toml",
                fix="copy the coordinator's to the site, and check it with: fedgmi site check",
            )

    def _hello(self, header: Header) -> Header:
        held_out = 0 if self.held_out is None else len(self.held_out)
        told: Header = {"site": self.settings.name, "rows": len(self.train), "held_out": held_out}
        return told | ({TOKEN: self._token(str(header["run"]))} if "run" in header else {})

    def _token(self, run: str) -> str:
        """By what the coordinator knows the site again in a run. Nobody else can say it, and no secret follows."""
        return hmac.digest(self._secret().encode(), b"the name in run " + run.encode(), "sha256").hex()[:TOKEN_LETTERS]

    def _take(self, request: Parcel, memory: Memory, guard: Guard) -> tuple[Tree, Turn, Step | None]:
        """What the request sends of the server's state, with what is kept of it here; its turn, and its step."""
        method = self.method()
        program = method.program
        step = check_place(request.header, program, self.federation)
        turn = guard.turn(request.header, fingerprint(request.header, "masks"), program)  # keys of a retry are others
        chain = self.federation.coding().broadcast(program)
        decode = None if chain is None else chain.decode
        held, first = memory.blocks(), dict[str, bytes]()
        if chain is not None and not held:
            held = first = first_blocks(chain.settle({}, program.init(), 0, "start"))
        reads = method.predictor.reads if step is None else (*step.reads, *method.predictor.reads)
        agreed = Agreed.of(program, reads, max(self.federation.sites, self.federation.setup().n_components))
        blocks = received(request, held, decode, agreed)
        server = tree_of(request.header, blocks)
        broken = tree.not_finite(server)
        if broken is not None:
            raise WireError(not_finite_words(server, broken))
        came = {leaf_of(blocks[name]).name: name for name in request.header["layout"]}
        guard.check_leaves(turn, request.header, program, came)
        for some, round in ((first, 0), (blocks, int(request.header["round"]))):
            if some:
                memory.keep_blocks(some, round, rounds_held(chain))
        return server, turn, step

    def _step(self, request: Parcel, step: Step, server: Tree, memory: Memory, turn: Turn) -> Parcel:
        header = request.header
        at, same = (int(header["round"]), int(header["number"])), fingerprint(header)
        kept = memory.load(at)
        if kept is None or kept.request != same:
            kept = self._run(header, step, server, memory, same)
            again = self._hides(step) and kept.reply and not turn.new
            if self.federation.privacy.on and again:
                self._account(header).pay_again(at, turn.about.times, header["masks"])
            memory.save(at, kept, _base_of(header))
        in_order = dict(sorted(kept.reply.items()))  # a file has its tensors in any: the same answer has the same bytes
        return pack(unflatten(in_order), {"rows": len(self.train)})

    def _run(self, header: Header, step: Step, server: Tree, memory: Memory, same: str) -> Kept:
        """The client's part of a step, from the state that the request builds on."""
        method, rows = self.method(), self._rows(self.train, header, self.validation)
        server, state = self._states(header, method, server, rows, memory)
        cache = memory.where / "cache.safetensors"
        results.read_cache(cache, self._cache_key(header), rows)
        known, (state, unsent) = dict(rows.cache), apart(state)
        at = int(header["round"]), int(header["number"])
        place = Place.of(step, server, int(header["id"]), (), at, self.federation.seed, unsent)
        before = state
        with torch.no_grad():
            state, message = step.client(server, state, rows, at[0])
        if any(known.get(name) is not leaf for name, leaf in rows.cache.items()):
            results.write_cache(cache, self._cache_key(header), rows)
        hidden = self._hides(step)
        if hidden or self.federation.privacy.on:
            state = self._settled(state, before, step, at)  # an error would tell what masks and noise are to hide
        else:
            require_finite(flatten(message), self.settings.name, at[0])
            require_finite(state, self.settings.name, at[0])
        wrappers = self.federation.coding().wrappers(method.program)
        if self.federation.privacy.on and flatten(message) and not noisy_by_itself(step):
            wrappers = (*self._private(method, step, (server, before), rows, header, memory), *wrappers)
        sent, left = send(wrappers, message, place)
        if hidden and flatten(sent):
            sent = self._masking(header, memory).hide(sent, header, dict(place.start))
        state = state | marked(unsent | left)
        return Kept(tree.to(state, "cpu"), tree.to(flatten(sent), "cpu"), same)

    def _hides(self, step: Step) -> bool:
        """Whether masks hide the site's answer to a step."""
        return self.federation.masked and not seen_singly(step)

    def _settled(self, state: Tree, before: Tree, step: Step, at: Exchange) -> Tree:
        """The site's own state, where what has run away stays as it was, and a line in the log says so."""
        broken = [name for name, leaf in state.items() if tree.not_finite({name: leaf})]
        if broken:
            what = f"{', '.join(broken)} ran away and stays as it was; nobody was told"
            note(self.where, f"round {at[0]}, exchange {at[1]}, step {step.name!r}: {what}")
        stays = {n: before[n] if n in before else state[n].nan_to_num(0.0, 0.0, 0.0) for n in broken}
        return state | stays

    def _told_of_masks(self, header: Header, memory: Memory, guard: Guard) -> Parcel:
        """What masks need of a site, for runs that have greeted it or begun here: others leave nothing on its disk."""
        if snapshot.digest_of(memory.where) is None and not guard.has_begun(str(header["run"])):
            raise Refused("masks are asked for in a run that has not greeted this site")
        self._check_masks(header, guard)

        def leaving(reply: Parcel, again: bool) -> None:
            self.audit().left(header, reply, None, again=again, data=self.version)

        return self._masking(header, memory).answer(header, leaving)

    def _check_masks(self, header: Header, guard: Guard) -> None:
        """Refuse what no exchange of the run's program can need."""
        within(header, "round", self.federation.rounds + 1)
        within(header, "id", self.federation.sites - 1)
        steps = self.method().program.steps(phase_of(header["round"], self.federation.rounds))
        if not steps:
            raise Refused(f"round {header['round']} has no exchange")
        within(header, "number", len(steps) - 1)
        guard.check_masks(header)

    def _masking(self, header: Header, memory: Memory) -> Masking:
        """This site's part in masked sums.

        Raises:
            UserError: Where the federation has none.
        """
        from fedgmi.deploy.site.masking import Masking  # sites without masks do without cryptography

        if not self.federation.masked:
            raise RequestError("federation.toml says nothing of masks", where="request", fix="ask the coordinator")
        within(header, "id", self.federation.sites - 1)
        n_sites, secret = self.federation.sites, self.settings.mask_secret
        sums = Sums(self.where, self.settings.same_sites)
        own = memory.where, str(header["run"]), int(header["id"]), n_sites, self.settings.name, sums, secret
        at = f"round {header.get('round')}, exchange {header.get('number')}"
        return Masking(*own, say=lambda line: note(self.where, f"{at}: {line}"))

    def _account(self, header: Header) -> Account:
        """What this site pays for the run."""
        from fedgmi.deploy.site.private import Account  # most federations do without

        cost = self.federation.cost(self.method())
        assert cost is not None
        return Account(cost, self.ledger(), self._secret(), str(header["run"]))

    def _paid(self, header: Header, turn: Turn) -> Account | None:
        """The account by which a message is paid for, once it is; None without `[privacy]`."""
        if not self.federation.privacy.on:
            return None
        private.check_rows(self.federation.config(), len(self.train), self.settings.name)
        account = self._account(header)
        if turn.new:
            turn.about.times = account.begun(turn.about.times, *turn.asked)
        account.pay(turn.about.times)
        return account

    def _private(
        self, method: Method, step: Step, states: tuple[Tree, Tree], rows: Rows, header: Header, memory: Memory
    ) -> tuple[Wrapper, ...]:
        """What bounds a message and adds this site's noise. states: what the step reads, and the site's own."""
        from fedgmi.deploy.site.private import own_noise, question

        at, federation = (int(header["round"]), int(header["number"])), self.federation
        settings = f"{federation.digest()} {self.settings.part_of_steps!r}"
        about = question(settings, at, step.name, *states, rows)
        parts, more = self._masking(header, memory).noise(header) if federation.masked else (1, ())
        return wrappers_of(federation.config(), method, own_noise(self._secret(), about, parts, more))

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

    def _finish(self, header: Header, server: Tree, memory: Memory, turn: Turn) -> tuple[Parcel, Callable[[], None]]:
        """Tell how good the predictor is on held-out rows; and what writes it, the proportions and the diagnosis.

        These replace results of before, so they are written once the turn is counted.
        That is told by a site that answered the last round or the end, and only where `tells_metrics`: such numbers are
        exact, for a predictor that the coordinator chooses.
        """
        method, rows = self.method(), self._rows(self.train, header)
        server, state = self._states(header, method, server, rows, memory)
        state, _ = apart(state)
        held_out = None if self.held_out is None else self._rows(self.held_out, header)
        schema = self.federation.rows.as_schema()
        found = results.quality(method.predictor, server, state, rows, held_out, schema)
        known = {"quality": found, "diagnosis": header.get("diagnosis"), "run": header["run"]}
        names = self.federation.name, self.settings.name
        write = partial(results.write, self.where, self.federation.setup(), *names, server, state, known)
        numbers = found.get("metrics", {}) | {"majority_accuracy": found.get("majority_accuracy")}
        if not (tells_metrics(self.settings, self.federation) and turn.since(self.federation.rounds)):
            numbers = {}  # exact functions of rows, which nothing hides: they stay in `results/`
        told = {name: torch.tensor([v], dtype=torch.float64) for name, v in numbers.items() if v is not None}
        return pack(Message(replies=told), {"rows": len(self.train)}), write

    def method(self) -> Method:
        """The method that the federation runs, with this site's own secret, and the part of its steps that it makes.

        It is built once for a secret, not for every request.
        """
        secret = self._secret()
        if secret not in self._methods:
            own = self.settings.part_of_steps
            charge = None if self.federation.privacy.on else self.ledger().charge  # `_account` pays for the whole run
            method = self.federation.setup().method(secret=secret, part=own, charge=charge)
            self._methods[secret] = self.federation.running(method)
        return self._methods[secret]

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
        """What noise is drawn from."""
        return secret_of(self.where)


def _base_of(header: Header) -> Exchange | None:
    """The exchange that a request builds on."""
    base = header["base"]
    return None if base is None else (int(base[0]), int(base[1]))
