"""What before_after.py runs at both checkouts, and how its settings were spelt before the redesign."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ALWAYS = ("threads=1", "device=cpu")
ALONE = ("evaluation.fedavg=false", "evaluation.local=false", "evaluation.oracle=false")
PROGRAM = Path(__file__).parent / "before_after_program.py"
OWN = {
    *("mu", "init", "draws", "strength", "interval", "smoother", "mean_below", "largest_above"),
    *("joint_rounds", "distance_threshold"),
}


@dataclass(frozen=True)
class Case:
    """A command of `fedgmi` with settings, or a part of before_after_program.py.

    Attributes:
        words: The command and its options, without --set and --out. Of the program: the part's name.
        settings: As `section.key=value`, in the spelling of today.
        program: Whether the words are the program's.
    """

    words: tuple[str, ...] = ("run",)
    settings: tuple[str, ...] = ()
    program: bool = False

    def spellings(self) -> list[tuple[str, ...]]:
        """The settings as they are spelt today and, where that differs, before the redesign.

        Examples:
            >>> Case(settings=("method.name=ditto", "method.mu=0.5")).spellings()[1]
            ('method.name=ditto', 'method.ditto.mu=0.5')
        """
        name = dict(setting.split("=", 1) for setting in self.settings).get("method.name", "")
        before = tuple(_before(setting, name) for setting in self.settings)
        return [self.settings] if before == self.settings else [self.settings, before]


def _before(setting: str, method: str) -> str:
    key = setting.partition("=")[0].removeprefix("method.")
    if key in OWN:
        return f"method.{method}.{setting.removeprefix('method.')}"
    return setting.replace("method.reference_rounds=", "method.judge_rounds=")


def short(*settings: str, rounds: int = 3) -> Case:
    """A run of a few rounds, with bounds."""
    return Case(settings=(f"rounds={rounds}", *settings))


def baseline(name: str, *settings: str) -> Case:
    """A method alone, with clients who come at the end only."""
    wanted = ("rounds=4", f"method.name={name}", "evaluation.unseen_clients=0.2", *ALONE)
    return Case(settings=(*wanted, *settings))


PHASES = ("method.warm_up_rounds=1", "method.reference_rounds=2", "method.calibration_steps=3")
GAUSSIAN = ("scenario.name=gaussian", "scenario.n_clients=12", "scenario.rows_per_client=60")

CASES = {
    "digits": Case(),
    "all phases": short(*PHASES, rounds=5),
    "preset plain": short("method.preset=plain", rounds=4),
    "preset sketch": short("method.preset=sketch", rounds=4),
    **{name: baseline(name) for name in ("fedavg", "fedprox", "ditto", "ifca", "fedsoft", "fedem", "fedgmm", "local")},
    "cfl": baseline("cfl", "method.mean_below=0.95", "method.largest_above=0.05"),
    "flhc": baseline("flhc", "method.joint_rounds=2"),
    "flhc, by distance": baseline("flhc", "method.joint_rounds=2", "method.distance_threshold=0.8"),
    "fedprox, other mu": baseline("fedprox", "method.mu=0.3"),
    "ditto, other mu": baseline("ditto", "method.mu=0.3"),
    "ifca, balanced": baseline("ifca", "method.init=balanced", "method.draws=3"),
    "ifca, farthest": baseline("ifca", "method.init=farthest", "method.participation=0.5"),
    "fedsoft, other strength": baseline("fedsoft", "method.strength=0.3", "method.interval=1"),
    "fedem, half take part": baseline("fedem", "method.participation=0.5"),
    "table, standardised": short(*GAUSSIAN, *PHASES, "data.standardise=true", rounds=4),
    "table, as it is": short(*GAUSSIAN, "density.name=gaussian", "scenario.size_ratio=3"),
    "components estimated": short("method.n_components=auto"),
    "clients unseen": short(*PHASES, "evaluation.unseen_clients=0.2", rounds=4),
    "half take part": short(*PHASES, "method.participation=0.5", rounds=4),
    "without bounds": short(*ALONE),
    "experts apart": short(*PHASES, "expert.shared=none", rounds=4),
    "convolutions": short("density.architecture=conv", "scenario.n_clients=8", rounds=2),
    "labels": short("scenario.name=labels", "scenario.rows_per_client=45", "seed=1"),
    "label swap": short("scenario.name=label-swap", *PHASES, "seed=2", rounds=4),
    "noise on histograms": short("method.epsilon=2"),
    "rates to choose from": short("training.lr=[0.01, 0.03]", "training.max_steps=4"),
    "compare": Case(("compare", "--methods", "fedgmi,fedgmi-plain,fedavg,ifca", "--seeds", "0,1"), ("rounds=2",)),
    "diagnose": Case(("diagnose",)),
    "diagnose, two asked": Case(("diagnose",), (*GAUSSIAN, "method.n_components=2", "data.standardise=true")),
    "estimator, arrays": Case(("arrays",), program=True),
    "estimator, frame": Case(("frame",), program=True),
    "drift": Case(("drift",), program=True),
}
