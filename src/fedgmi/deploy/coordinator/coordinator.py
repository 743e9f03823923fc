"""The coordinator's whole run: wait for the sites, run the method's rounds over them, keep what is found."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from fedgmi.deploy import exchanges, private
from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.checks import Probe
from fedgmi.deploy.coordinator.closing import close
from fedgmi.deploy.coordinator.log import failing_in, tell_in
from fedgmi.deploy.coordinator.remote import Remote
from fedgmi.deploy.coordinator.roster import MOST_ROWS, Member, Post, Roster, Tell
from fedgmi.deploy.coordinator.warm_start import AGREED, first_state, lasting
from fedgmi.deploy.settings import FederationSettings, too_many
from fedgmi.errors import CheckpointError, UserError, sentence
from fedgmi.protocol.allowance import MB, Allowance
from fedgmi.protocol.ledger import Ledger, bytes_by_kind
from fedgmi.protocol.phases import phase_of
from fedgmi.protocol.robust import require_robust
from fedgmi.protocol.rounds import Progress, run_rounds
from fedgmi.protocol.secure_sum import masked_line
from fedgmi.protocol.words import one_line
from fedgmi.report.formats import plural
from fedgmi.runs.budget.plan import plan
from fedgmi.runs.budget.planned import Plan
from fedgmi.runs.budget.words import planning_line, spending
from fedgmi.runs.config import dump
from fedgmi.runs.private import wrappers_of
from fedgmi.runs.records import Record, Summary
from fedgmi.runs.setup import Setup, open_process
from fedgmi.storage import checkpoint, files, folder
from fedgmi.storage.checkpoint import Checkpoint

POLL_S = 1.0
BEGUN = "begun"  # where a run stands before its first checkpoint
WARM = "warm_start"  # in a checkpoint: not part of the digest
READMIT = "readmit.txt"  # names of sites that are let in with another token than they had


@dataclass
class Coordinator:
    """One federation over sites that a post reaches.

    Attributes:
        settings: federation.toml.
        post: What carries parcels to sites and back.
        out: The results folder, with the log, records and status.
        echo: Shows a line of the log.
        planned: How the run keeps to its budget; None: there is none.
        allowance: What sites may cost.
        remote: Over which sites are reached, once it is made.
        waiting_since: When the wait for sites began, in unix seconds; 0 before and after it.
    """

    settings: FederationSettings
    post: Post
    out: Path
    echo: Tell = print
    planned: Plan | None = field(default=None, init=False)
    allowance: Allowance | None = field(default=None, init=False)
    remote: Remote | None = field(default=None, init=False)
    waiting_since: float = field(default=0.0, init=False)

    def run(self) -> dict[str, Any]:
        """From the beginning, or from the last checkpoint in `out`, to the end.

        Returns:
            The summary that `fedgmi report` reads.

        Raises:
            UserError: Where settings or folder do not allow it, where too few sites come, or where none answers.
        """
        with failing_in(self.out, self.tell, self._failed):
            return self._alone()

    def _alone(self) -> dict[str, Any]:
        """The run, in a folder that is nobody else's meanwhile."""
        settings, name = self.settings, self.settings.method.name
        setup = settings.setup()
        files.write_text(self.out / folder.CONFIG, dump(settings.config()))
        open_process()
        setup.say_remarks()
        if setup.config.communication.limited:
            self.tell(planning_line(name))
        self.planned = planned = plan(setup, name, settings.sites)
        if planned is not None:
            setup, self.allowance = planned.setup, planned.allowance()
        found = checkpoint.load(self.out / folder.CHECKPOINTS, name, digest=settings.digest()) or self._begun(name)
        self.tell(self._count(setup, found).line())
        line = setup.coding().line(name, setup.method().program) if planned is None else planned.line
        if line:
            self.tell(line)
        if more := too_many(setup.n_components, settings.sites):
            self.tell(more)
        remote = self.remote = self._remote(setup, str(found.meta["run"]) if found else secrets.token_hex(8))
        summary = Summary.write(self.out, self._run(remote, found))
        self._status(remote, "finished")
        return summary

    def _count(self, setup: Setup, found: Checkpoint | None) -> exchanges.Count:
        """How often sites are still to be asked."""
        settings = self.settings
        told = found.meta["round"] if found else -1 if settings.warm_start is None else 0
        done = told if isinstance(told, int) else -1  # a checkpoint that cannot be is told later
        return exchanges.Count(settings.running(setup.method()).program, settings.rounds, settings.masked, done)

    def _failed(self, why: str) -> None:
        """The status of a run that has stopped, however far it came."""
        if self.remote is None:
            return status.failed(self.out, self.settings.name, why)
        self._status(self.remote, "failed", why)

    def _run(self, remote: Remote, found: Checkpoint | None) -> dict[str, Any]:
        """Wait, run the rounds, close."""
        settings = self.settings
        progress = self._begin(remote, found)
        remote.after = lambda: self._status(remote, "running")
        end = run_rounds(
            remote.method.name,
            remote.method.program,
            remote,
            progress,
            n_clients=settings.sites,
            rounds=settings.rounds,
            participation=settings.method.participation,
            seed=settings.seed,
            after=lambda progress: self._keep(remote, progress),
            allowance=self.allowance,
        )
        return close(remote, end, self.out) | self._travelled(remote)

    def _travelled(self, remote: Remote) -> dict[str, Any]:
        """How models travelled and what the dearest site cost, for the summary; and how the run kept to its budget."""
        name, setup = remote.method.name, self.settings.setup() if self.planned is None else self.planned.setup
        most = int(remote.ledger.by_client().sum(1).max())
        found = {"most_mb": most / MB, "models_travelled": setup.coding().in_words(remote.method.program)}
        if self.planned is None or self.allowance is None:
            return found
        budget = spending(self.planned, self.allowance, remote.ledger, name)
        self.tell(budget["kept"])
        return found | {"budget": budget}

    def tell(self, line: str) -> None:
        """One line to whoever watches, and to log.txt."""
        tell_in(self.out, line, self.echo)

    def _remote(self, setup: Setup, run: str) -> Remote:
        settings, method = self.settings, self.settings.running(setup.method())
        require_robust(method.program, method.name, settings.robust)
        roster = Roster(settings.sites, self.tell, settings.max_rows or MOST_ROWS, self.out / READMIT)
        probe = Probe(method, setup.schema)
        ledger, coding = Ledger(settings.sites), setup.coding()
        wrappers, chain = coding.wrappers(method.program), coding.broadcast(method.program)
        attempt = secrets.token_hex(8)
        chosen = {} if self.planned is None else self.planned.chosen
        cost = settings.cost(method)
        wrappers = (*wrappers_of(settings.config(), method), *wrappers)
        if cost is not None:
            self.tell(private.line(cost, masked=settings.masked))
        kind = Remote
        if settings.masked:
            from fedgmi.deploy.coordinator.masked import MaskedRemote  # which needs cryptography

            self.tell(masked_line(method.program))
            kind = MaskedRemote
        return kind(
            post=self.post,
            settings=settings,
            method=method,
            roster=roster,
            probe=probe,
            run=run,
            attempt=attempt,
            ledger=ledger,
            wrappers=wrappers,
            chain=chain,
            plan=chosen,
            cost=cost,
        )

    def _status(
        self, remote: Remote, state: Literal["waiting", "running", "finished", "failed"], why: str = ""
    ) -> None:
        """Where things stand, for `fedgmi deploy status`."""
        absent = remote.absent
        sites = {
            member.name: status.SiteStatus(
                alive=member.node is not None,
                last_round=member.last_round,
                last_seen=member.last_seen,
                rows=member.rows,
                bytes_down=member.bytes_down,
                bytes_up=member.bytes_up,
                absent=member.absent,
                note=member.contested or member.note,
                missing=member.node is not None and member.name in absent,
            )
            for member in remote.roster.members
        }
        many = too_many(remote.n_components, self.settings.sites)
        about = status.Status(
            name=self.settings.name,
            round=min(remote.round, self.settings.rounds),
            rounds=self.settings.rounds,
            state=state,
            updated=time.time(),
            deadline_s=self.settings.deadline_s,
            note="; ".join(filter(None, (many.rstrip("."), remote.few_counted, why))),
            turned_away=remote.roster.turned_away,
            expected=self.settings.sites,
            waiting_since=self.waiting_since,
            sites=sites,
        )
        status.write(self.out, about)

    def _begin(self, remote: Remote, found: Checkpoint | None) -> Progress:
        """Where to begin, once enough sites are there."""
        warm = None if found or self.settings.warm_start is None else first_state(self.settings, remote.method)
        progress = Progress(remote.method.program.init()) if found is None else self.resume(remote, found)
        self._wait(remote)
        if warm is not None:
            self.tell(f"begins with the model of {self.settings.warm_start}: the preparation is left out")
            progress = Progress(warm, round=0)
        if found is None:
            self._save(BEGUN, remote, progress, self._record(remote, progress))
        return progress

    def _begun(self, name: str) -> Checkpoint | None:
        """The start of a run that has no checkpoint yet. Sites pay from their first answer on: they are asked the same.

        With other settings it is another run, and nothing is lost but what sites have paid.
        """
        try:
            found = checkpoint.load(self.out / BEGUN, name, digest=self.settings.digest())
            why = "warm_start is another" if found and found.meta.get(WARM) != self.settings.warm_start else ""
        except CheckpointError as error:
            found, why = None, error.what
        if why:
            self.tell(f"begins anew, as another run: {why}")
        return None if why else found

    def resume(self, remote: Remote, found: Checkpoint) -> Progress:
        """Where a checkpoint says that the run stands; members and ledger are as they were.

        Raises:
            CheckpointError: Where it was altered: its check is right, and what it says cannot be.
        """
        try:
            remote.roster.members = [Member.from_json(member) for member in found.meta["members"]]
            remote.ledger = Ledger.from_tree(self.settings.sites, found.ledger)
            remote.counted = found.meta.get("counted")
            remote.roster.restored = {member.name for member in remote.roster.members}
            if remote.chain is not None:
                remote.chain.restore(found.meta["links"], found.clients)
            if self.allowance is not None:
                self.allowance.restore(found.meta["allowance"])
            progress = Progress.of(found.server, found.meta)
            if not -1 <= progress.round <= self.settings.rounds + 1:
                raise ValueError(f"round {progress.round}")
        except Exception as error:
            what = f"what it says cannot be ({type(error).__name__}: {one_line(str(error), 200)})"
            where = str(self.out / folder.CHECKPOINTS)
            raise CheckpointError(what, where=where, fix="start in another folder, with --out") from error
        self.tell(f"goes on after round {progress.round}" if progress.round >= 0 else "begins again, as the same run")
        return progress

    def _wait(self, remote: Remote) -> None:
        """Until as many sites are there as federation.toml says, or `wait_s` is over. It counts from the first look."""
        began, hello, self.waiting_since = None, remote.hello(), time.time()
        self._status(remote, "waiting")  # the first look may take a deadline
        while True:
            remote.roster.call(self.post, hello, self.settings.deadline_s, idle=True)
            began = time.monotonic() if began is None else began
            self._status(remote, "waiting")
            if len(remote.roster.alive) >= (self.settings.min_sites or self.settings.sites):
                if all(member.base is None for member in remote.roster.members):  # nothing has begun: indices by name
                    remote.roster.members.sort(key=lambda member: member.name)
                remote.roster.tell_weight()
                self.waiting_since = 0.0
                return
            if time.monotonic() - began > self.settings.wait_s:
                raise self._too_few(remote.roster)
            time.sleep(min(POLL_S, self.settings.wait_s / 10))

    def _too_few(self, roster: Roster) -> UserError:
        """That not enough sites came, and of those that came and were not let in, why."""
        what = f"{len(roster.alive)} of {self.settings.sites} sites came in {self.settings.wait_s:g} s"
        fix, away = "start the missing SuperNodes, or lower sites or min_sites in federation.toml", roster.turned_away
        if away:
            nodes = f"{plural(len(away), 'node')} {'is' if len(away) == 1 else 'are'}"
            what += f", and {nodes} connected and not let in. {' '.join(map(sentence, away))}"
            fix = "mend what is told there of the nodes that are not let in, and start again"
        return UserError(what, where=self.settings.name, fix=fix)

    def _keep(self, remote: Remote, progress: Progress) -> None:
        """Record and checkpoint of a round."""
        record = self._record(remote, progress)
        self._save(folder.CHECKPOINTS, remote, progress, record)
        folder.keep_records(self.out, lambda line: line["round"] < progress.round)
        folder.append_record(self.out, Record.checked(record))
        rounds = self.settings.rounds
        named = {"prepare": "the preparation", "finish": "the end", "round": f"round {progress.round} of {rounds}"}
        done = named[phase_of(progress.round, rounds)]
        self.tell(f"{done} is done, {progress.seconds:.0f} s so far")

    def _record(self, remote: Remote, progress: Progress) -> dict[str, Any]:
        """What is told of a round, and kept in its checkpoint."""
        record: dict[str, Any] = {
            "run": remote.method.name,
            "round": progress.round,
            "bound": remote.method.metrics(progress.server).get("bound"),
            "proportion_tv": None,
            "validation_accuracy": None,
            "bytes_down": progress.bytes_down,
            "bytes_up": progress.bytes_up,
            "bytes": bytes_by_kind(remote.ledger),
            "seconds": progress.seconds,
            "absent": remote.absent,
            "refused": remote.refused if remote.round == progress.round else {},  # the end may ask nobody
        }
        if self.allowance is not None:
            record["sat_out"] = len(self.allowance.sat_out.get(progress.round, ()))
        return record

    def _save(self, where: str, remote: Remote, progress: Progress, record: dict[str, Any]) -> None:
        """A checkpoint."""
        meta = files.finite(record) | {
            "digest": self.settings.digest(),
            AGREED: lasting(self.settings),
            "threads": torch.get_num_threads(),
            "validation": [],
            "run": remote.run,
            "members": [member.to_json() for member in remote.roster.members],
            "counted": remote.counted,
            WARM: self.settings.warm_start,
        }
        meta |= {} if self.allowance is None else {"allowance": self.allowance.to_json()}
        links = {} if remote.chain is None else remote.chain.to_tree()
        meta |= {} if remote.chain is None else {"links": remote.chain.to_json()}
        kept = Checkpoint(progress.server, links, meta, remote.ledger.to_tree())
        checkpoint.save(self.out / where, remote.method.name, kept)
