"""The real experiment at its smallest: some tenths of a second, and every phase still happens."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fedgmi import cli
from fedgmi.methods.fedgmi.settings import UNUSED
from fedgmi.protocol.ledger import Ledger
from fedgmi.runs import config, experiment

TINY = (
    "scenario.n_clients=6",
    "scenario.rows_per_client=60",
    "rounds=2",
    "threads=1",
    "density.hidden=8",
    "density.latent=2",
    "expert.hidden=8",
    "training.epochs=1",
    "evaluation.oracle=false",
    "evaluation.fedavg=false",
    "evaluation.local=false",
    "method.codewords=4",
    "method.kmeans_rounds=2",
    "method.calibration_steps=1",
    "method.judge_turns=2",
    "method.warm_up_rounds=1",
)
"""Of fedgmi."""
OWN = (
    "method.codewords=4",
    "method.kmeans_rounds=2",
    "method.calibration_steps=1",
    "method.judge_turns=2",
    "method.warm_up_rounds=1",
)
"""fedgmi's own settings, which other methods refuse."""
ALL_BOUNDS = ("evaluation.oracle=true", "evaluation.fedavg=true", "evaluation.local=true")


class Killer:
    """A listener that interrupts the run once a record of `run` and `round` is on disk."""

    def __init__(self, run: str, round: int) -> None:
        self._last = (run, round)

    def started(self, name: str, rounds: int) -> None: ...

    def round_done(self, record: dict[str, Any]) -> None:
        if (record["run"], record["round"]) == self._last:
            raise KeyboardInterrupt

    def doing(self, name: str, part: str) -> None: ...

    def said(self, name: str, line: str) -> None: ...

    def finished(self, name: str) -> None: ...


def tiny(*overrides: str) -> list[str]:
    """TINY and more; without fedgmi's settings where the overrides name another method, or a preset without them."""
    chosen = dict(word.split("=", 1) for word in overrides if "=" in word)
    ours, unused = chosen.get("method.name", "fedgmi") == "fedgmi", UNUSED[chosen.get("method.preset", "default")]
    left_out = ["method."] if not ours else [f"method.{name}=" for name in unused]
    left_out += ["density."] if chosen.get("density.name") == "gaussian" else []
    return [*(word for word in TINY if not word.startswith(tuple(left_out))), *overrides]


def small(*overrides: str) -> tuple[str, ...]:
    """What makes a run tiny, whichever method the overrides name."""
    other = any(word.startswith("method.name=") and word != "method.name=fedgmi" for word in overrides)
    return TINY if other else (*TINY, *OWN)


def settings(*overrides: str) -> config.Config:
    return config.load(None, tiny(*overrides))


def run(out: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
    return experiment.run(settings(*overrides), out, resume=resume)


def arguments(out: Path, *overrides: str, resume: bool = False) -> list[str]:
    """The command line of the same run."""
    sets = [word for override in tiny(*overrides) for word in ("--set", override)]
    return ["run", *sets, "--out", str(out), *(["--resume"] if resume else [])]


def exit_code(*words: str) -> int:
    """What the command line ends with, 0 included; a traceback would not be a SystemExit."""
    with pytest.raises(SystemExit) as raised:
        cli.main(list(words))
    return int(raised.value.code or 0)


def ledger_of(*rounds: list[tuple[int, int]]) -> Ledger:
    """Bytes down and up of each client in rounds 0, 1, …."""
    ledger = Ledger(len(rounds[0]))
    for number, clients in enumerate(rounds):
        for i, (down, up) in enumerate(clients):
            ledger.add(number, "expert", i, down=down, up=up)
    return ledger


def without_seconds(value: Any) -> Any:
    """Everything that has to be equal bit for bit."""
    if isinstance(value, dict):
        return {key: without_seconds(inner) for key, inner in value.items() if key != "seconds"}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def hashes(folder: Path) -> dict[str, str]:
    """Every file below the folder and its content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
