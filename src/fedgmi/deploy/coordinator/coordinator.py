"""The coordinator's whole run: wait for the sites, drive the method's rounds over them, keep what is found."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fedgmi import tree
from fedgmi.data.standardise import standardisation
from fedgmi.deploy.coordinator import status
from fedgmi.deploy.coordinator.checks import Ghost
from fedgmi.deploy.coordinator.closing import close
from fedgmi.deploy.coordinator.remote import Remote
from fedgmi.deploy.coordinator.roster import Post, Roster, Seat, Tell
from fedgmi.deploy.settings import FederationSettings
from fedgmi.deploy.site.site import SCALE
from fedgmi.errors import ConfigError, UserError
from fedgmi.methods import METHODS, WITHOUT_COMPONENTS
from fedgmi.protocol.robust import require_robust
from fedgmi.protocol.rounds import Progress, drive
from fedgmi.protocol.wire import Blocks, WireError, join
from fedgmi.runs.experiment import check_method, new_task
from fedgmi.settings.run import dump
from fedgmi.storage import checkpoint, folder
from fedgmi.storage.checkpoint import Checkpoint
from fedgmi.tree import Tree

CHECKPOINTS = "checkpoints"
POLL_S = 1.0


@dataclass
class Coordinator:
    """One federation over sites that a post reaches; `out` is its results folder, with the log, records and status."""

    settings: FederationSettings
    post: Post
    out: Path
    echo: Tell = print

    def run(self) -> dict[str, Any]:
        """From the beginning, or from the last checkpoint in `out`, to the summary that `fedgmi report` reads.

        Raises UserError where settings or folder do not allow it, where too few sites come, or where none answers.
        """
        check_method(self.settings.method)
        n_components = self._n_components()
        folder.claim(self.out, resume=True)
        with folder.alone(self.out):
            return self._alone(n_components)

    def _alone(self, n_components: int) -> dict[str, Any]:
        """The run, in a folder that is nobody else's meanwhile."""
        settings, name = self.settings, self.settings.method.name
        folder.write_text(self.out / folder.CONFIG, dump(settings.config()))
        torch.set_flush_denormal(True)
        found = checkpoint.load(self.out / CHECKPOINTS, name, digest=settings.digest())
        remote = self._remote(n_components, str(found.meta["run"]) if found else secrets.token_hex(8))
        try:
            summary = self._drive(remote, found)
        except BaseException as error:
            self.tell(f"stopped: {' '.join(str(error).split()) or type(error).__name__}")
            self._status(remote, "failed")
            raise
        folder.write_json(self.out / folder.SUMMARY, summary)
        self._status(remote, "finished")
        return summary

    def _drive(self, remote: Remote, found: Checkpoint | None) -> dict[str, Any]:
        """Wait, drive, close."""
        settings = self.settings
        progress = self._begin(remote, found)
        remote.after = lambda: self._status(remote, "running")
        end = drive(
            remote.method,
            remote,
            progress,
            n_clients=settings.sites,
            rounds=settings.rounds,
            participation=settings.method.participation,
            seed=settings.seed,
            after=lambda progress: self._keep(remote, progress),
        )
        return close(remote, end, self.out)

    def tell(self, line: str) -> None:
        """One line to whoever watches, and to log.txt."""
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}"
        self.echo(stamped)
        with folder.writing(self.out / "log.txt"), (self.out / "log.txt").open("a", encoding="utf-8") as file:
            file.write(stamped + "\n")

    def _n_components(self) -> int:
        """K as federation.toml has it; nobody asks the sites for it first."""
        asked, name = self.settings.method.n_components, self.settings.method.name
        if isinstance(asked, int) or name in WITHOUT_COMPONENTS:
            return int(asked or 1)
        raise ConfigError(
            "a deployment is told how many components there are", where="method.n_components", fix="set a whole number"
        )

    def _remote(self, n_components: int, run: str) -> Remote:
        settings, schema = self.settings, self.settings.rows.as_schema()
        config, name = settings.config(), settings.method.name
        method = METHODS[name](new_task(config, schema, n_components))
        require_robust((*method.prepare, *method.round, *method.finish), name, settings.robust)
        roster, ghost = Roster(settings.sites, self.tell), Ghost(method, schema)
        return Remote(self.post, settings, method, n_components, roster, ghost, run, secrets.token_hex(8))

    def _status(self, remote: Remote, state: Literal["waiting", "running", "finished", "failed"]) -> None:
        """Where things stand, for `fedgmi deploy status`."""
        sites = {
            seat.name: status.SiteStatus(
                alive=seat.node is not None,
                last_round=seat.last_round,
                last_seen=seat.last_seen,
                rows=seat.rows,
                bytes_down=seat.bytes_down,
                bytes_up=seat.bytes_up,
                absent=seat.absent,
                note=seat.note,
            )
            for seat in remote.roster.seats
        }
        about = status.Status(
            name=self.settings.name,
            round=min(remote.round, self.settings.rounds),
            rounds=self.settings.rounds,
            state=state,
            updated=time.time(),
            deadline_s=self.settings.deadline_s,
            sites=sites,
        )
        status.write(self.out, about)

    def _begin(self, remote: Remote, found: Checkpoint | None) -> Progress:
        """Where to begin, once enough sites are there."""
        if found is not None:
            remote.roster.seats = [Seat.from_json(seat) for seat in found.meta["seats"]]
            remote.stacked = {name: leaf for name, leaf in found.clients.items() if not name.startswith(SCALE)}
            remote.extra = {name: leaf for name, leaf in found.clients.items() if name.startswith(SCALE)}
            self.tell(f"goes on after round {found.meta['round']}")
        self._wait(remote)
        if found is not None:
            numbers = {name: found.meta[name] for name in ("round", "bytes_down", "bytes_up", "seconds")}
            return Progress(found.server, **numbers)
        progress = Progress(remote.method.init())
        if self.settings.rows.kind == "tabular":
            down, up = self._scale(remote)
            progress = Progress(progress.server, bytes_down=down, bytes_up=up)
        return progress

    def _wait(self, remote: Remote) -> None:
        """Until as many sites are there as federation.toml says, or `wait_s` is over."""
        began, hello = time.monotonic(), remote.hello()
        while True:
            remote.roster.call(self.post, hello, self.settings.deadline_s)
            self._status(remote, "waiting")
            if len(remote.roster.alive) >= (self.settings.min_sites or self.settings.sites):
                if all(seat.base is None for seat in remote.roster.seats):  # nothing has begun: indices by name
                    remote.roster.seats.sort(key=lambda seat: seat.name)
                return
            if time.monotonic() - began > self.settings.wait_s:
                raise UserError(
                    f"{len(remote.roster.alive)} of {self.settings.sites} sites came in {self.settings.wait_s:g} s",
                    where=self.settings.name,
                    fix="start the missing SuperNodes, or lower sites or min_sites in federation.toml",
                )
            time.sleep(min(POLL_S, self.settings.wait_s / 10))

    def _scale(self, remote: Remote) -> tuple[int, int]:
        """A table's mean and deviation by federated sums, which then go with every request."""
        answers, down, up = remote.ask(remote.roster.alive, Blocks([], {}), remote.header("sums"))
        sums: Tree = {}
        for i, parcel in sorted(answers.items()):
            try:
                sums = tree.add(sums, join(parcel, {}))
            except WireError as error:
                raise UserError(str(error), where=remote.roster.seats[i].name, fix="update fedgmi there") from error
        scale = standardisation(sums, self.settings.rows.features)
        remote.extra = {f"{SCALE}{name}": leaf for name, leaf in scale._asdict().items()}
        return down, up

    def _keep(self, remote: Remote, progress: Progress) -> None:
        """Record and checkpoint of a round."""
        bound = progress.server.get("bound")
        record = {
            "run": self.settings.method.name,
            "round": progress.round,
            "bound": None if bound is None else float(bound),
            "proportion_tv": None,
            "validation_accuracy": None,
            "bytes_down": progress.bytes_down,
            "bytes_up": progress.bytes_up,
            "seconds": progress.seconds,
            "absent": remote.absent,
        }
        meta = folder.finite(record) | {
            "digest": self.settings.digest(),
            "threads": torch.get_num_threads(),
            "validation": [],
            "run": remote.run,
            "seats": [seat.to_json() for seat in remote.roster.seats],
        }
        checkpoint.save(
            self.out / CHECKPOINTS,
            self.settings.method.name,
            Checkpoint(progress.server, remote.stacked | remote.extra, meta),
        )
        folder.keep_records(self.out, lambda line: line["round"] < progress.round)
        folder.append_record(self.out, folder.finite(record))
        rounds = self.settings.rounds
        named = {0: "the preparation", rounds + 1: "the end"}
        done = named.get(progress.round, f"round {progress.round} of {rounds}")
        self.tell(f"{done} is done, {progress.seconds:.0f} s so far")
