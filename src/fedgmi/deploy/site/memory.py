"""What a site keeps of a run on its own disk: its states, its last replies, and blocks of the coordinator's tree.

One folder a run. A state belongs to an exchange (round, number); the two newest and the last ones of the two rounds
before stay, and what the first request of each of these rounds built on. So a coordinator that starts again from its
checkpoint finds the state that it builds on, and so does one that has not had an answer for many rounds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgmi.errors import CheckpointError, RequestError
from fedgmi.protocol.blocks import ROUNDS_HELD, still_held
from fedgmi.protocol.wire import hash_of
from fedgmi.storage import files
from fedgmi.storage import tensors as store
from fedgmi.tree import Tree

Exchange = tuple[int, int]  # round, number within it
ROUNDS_KEPT = 2
RUNS_KEPT = 2
AGAIN = "remove this file; the site then joins the run as a newcomer"
PLAN = "plan"  # what the coordinator chose to keep to the budget
BLOCKS = "blocks.rounds"  # in which round each block was needed last


@dataclass(frozen=True)
class Kept:
    """What is kept of an exchange.

    Attributes:
        state: The site's, after it.
        reply: The leaves of the message that the site answered with.
        request: The hash of what it answered to.
    """

    state: Tree
    reply: Tree
    request: str


class _Blocks(Mapping[str, bytes]):
    """Blocks in a folder, by their hash. A request names few of those that are kept."""

    def __init__(self, where: Path) -> None:
        self._where, self._read = where, dict[str, bytes]()

    def __getitem__(self, name: str) -> bytes:
        if name not in self._read and re.fullmatch(r"[0-9a-f]+", name):
            with suppress(FileNotFoundError):
                data = (self._where / name).read_bytes()
                if hash_of(data) == name:
                    self._read[name] = data
                else:
                    (self._where / name).unlink(missing_ok=True)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in sorted(self._where.glob("*")) if path.name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class Memory:
    """A site's folder of one run.

    Attributes:
        where: The folder.
    """

    where: Path

    def save(self, at: Exchange, kept: Kept, base: Exchange | None = None) -> None:
        """Write a state, whole or not at all, then forget what nobody can ask for any more.

        Later exchanges are forgotten too. The coordinator has abandoned them: it went back to its checkpoint.

        Args:
            at: The exchange.
            kept: What is kept of it.
            base: The exchange that it builds on; None: it builds on none.
        """
        self._remove(later for later in self.exchanges() if later > at)
        before = [other for other in self.exchanges() if other[0] == at[0] and other < at]
        began = self._began_from(before[-1]) if before else base
        tensors = {f"state/{k}": v for k, v in kept.state.items()} | {f"reply/{k}": v for k, v in kept.reply.items()}
        path = self._path(at)
        store.save(path, tensors, {"request": kept.request, "began": began}, file=path.with_suffix(".safetensors").name)
        self._forget()

    def load(self, at: Exchange) -> Kept | None:
        """What is kept of an exchange.

        Args:
            at: The exchange.

        Returns:
            It; None where it is not kept.

        Raises:
            CheckpointError: Where the file is damaged.
        """
        path = self._path(at)
        if not path.exists():
            return None
        meta = store.read_meta(path, lambda meta: None, kind="state", fix=AGAIN)
        tensors = store.read_tensors(path, meta, fix=AGAIN)
        return Kept(store.part(tensors, "state/"), store.part(tensors, "reply/"), str(meta.get("request")))

    def exchanges(self) -> list[Exchange]:
        """All that are kept, oldest first."""
        names = (re.fullmatch(r"(\d{6})-(\d{4})", path.stem) for path in self.where.glob("*.json"))
        return sorted((int(name[1]), int(name[2])) for name in names if name)

    def keep_plan(self, chosen: Mapping[str, Any] | None) -> None:
        """Keep what the coordinator chose to keep to the budget, for the run. None: it chose nothing."""
        if not chosen:
            (self.where / PLAN).unlink(missing_ok=True)
            return
        files.write_bytes(self.where / PLAN, json.dumps(dict(chosen)).encode())

    def plan(self) -> Any:
        """What `keep_plan` wrote; None where there is no plan."""
        path = self.where / PLAN
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except (OSError, ValueError, RecursionError) as error:
            fix = "start the run again: its greeting brings the plan anew"
            raise CheckpointError("this is no plan", where=str(path), fix=fix) from error

    def blocks(self) -> Mapping[str, bytes]:
        """The blocks of the coordinator's state that are kept, by their hash. They are read when they are asked for.

        Damaged ones are thrown away, so that they are asked for again.
        """
        return _Blocks(self.where / "blocks")

    def keep_blocks(self, blocks: Mapping[str, bytes], round: int, rounds: int = ROUNDS_HELD) -> None:
        """Keep the blocks of a request, and earlier ones for as long as `protocol.blocks.still_held` says.

        Args:
            blocks: All blocks of the request's tree, by hash.
            round: The request's.
            rounds: For how long they are kept.
        """
        place, index = self.where / "blocks", self.where / BLOCKS
        there = set(os.listdir(place)) if place.exists() else set[str]()
        held = {name: last for name, last in _read_rounds(index).items() if name in there}
        held = still_held(held, blocks, round, rounds)
        for name in blocks.keys() - there:
            files.write_in_place(place / name, blocks[name])  # a damaged block is asked for again
        files.write_bytes(index, json.dumps(held).encode(), sync=False)
        for name in there - held.keys():
            (place / name).unlink(missing_ok=True)

    def _path(self, at: Exchange) -> Path:
        return self.where / f"{at[0]:06d}-{at[1]:04d}.json"

    def _forget(self) -> None:
        every = self.exchanges()
        rounds = sorted({round for round, _ in every})
        last = {max(at for at in every if at[0] == round) for round in rounds[-1 - ROUNDS_KEPT :]} | set(every[-2:])
        self._remove(set(every) - last - {self._began_from(at) for at in last})

    def _began_from(self, at: Exchange) -> Exchange | None:
        """What the first request of an exchange's round built on; None where it is lost, too."""
        try:
            found = store.read_meta(self._path(at), lambda meta: None, kind="state", fix=AGAIN).get("began")
        except CheckpointError:
            return None
        if isinstance(found, list) and len(found) == 2 and all(type(n) is int for n in found):
            return found[0], found[1]
        return None

    def _remove(self, exchanges: Iterable[Exchange]) -> None:
        for at in exchanges:
            self._path(at).unlink(missing_ok=True)
            self._path(at).with_suffix(".safetensors").unlink(missing_ok=True)


def _read_rounds(path: Path) -> dict[str, int]:
    """What `keep_blocks` wrote; nothing where it is lost, so that blocks are sent again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: last for name, last in found.items() if type(last) is int} if isinstance(found, dict) else {}


def memory_of(site: Path, run: str) -> Memory:
    """The folder of a run, which is made when something is kept there.

    Args:
        site: The site's folder.
        run: The run's name, hex.

    Returns:
        Its memory.

    Raises:
        RequestError: For a name that is not hex: it could be a path.
    """
    if not re.fullmatch(r"[0-9a-f]{8,64}", run):
        raise RequestError(f"{run[:40]!r} is no name of a run", where="request", fix="check who submits runs")
    return Memory(site / "runs" / run)


def forget_runs(site: Path, going_on: Collection[str], begun: Collection[str] = ()) -> None:
    """Remove the folders of runs that are over, but for the last ones: of runs that began, and of mere greetings.

    Args:
        site: The site's folder.
        going_on: Names of runs whose folders stay.
        begun: Names of runs of which something was answered. Greetings, which cost nothing, do not make these go.
    """
    over = [path for path in (site / "runs").glob("*") if path.is_dir() and path.name not in going_on]
    over.sort(key=lambda path: path.stat().st_mtime)
    for some in ([path for path in over if (path.name in begun) is which] for which in (True, False)):
        for stale in some[: max(0, len(some) - RUNS_KEPT)]:
            shutil.rmtree(stale, ignore_errors=True)


class StateLost(RequestError):
    """What a coordinator is told that builds on a state which is not kept."""

    def __init__(self, at: Exchange) -> None:
        super().__init__(f"the state after exchange {at} is not kept here", where="state", fix="join anew")
