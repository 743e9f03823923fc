"""`[privacy]` in federation.toml: what it goes with, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

from fedgmi.errors import ConfigError
from fedgmi.methods import Method
from fedgmi.protocol.private_sum import noisy_by_itself
from fedgmi.protocol.step import Step
from fedgmi.runs.config import Config
from fedgmi.runs.private import Cost, check_privacy
from fedgmi.settings.privacy import PrivacySettings
from fedgmi.settings.robust import RobustSettings


def check_federation(config: Config, robust: RobustSettings, missing: str) -> None:
    """Refuse what does not go with `[privacy]`.

    Args:
        config: The run's settings.
        robust: How the coordinator guards itself.
        missing: What becomes of missing values.

    Raises:
        ConfigError: It names the setting.
    """
    check_privacy(config)
    if not config.privacy.on:
        return
    if robust.on:
        key = "max_norm" if robust.max_norm is not None else "aggregation"
        what = "updates are bounded at the sites already, and with noise no mean but the plain one is as accurate"
        raise ConfigError(what, where=f"robust.{key}", fix="leave it out, or [privacy]")
    if config.communication.on or config.communication.limited:
        what = "a codec codes differences from the model as it stands, and a private message is one with noise in it"
        raise ConfigError(what, where="communication", fix="leave it out but for secure, or leave [privacy] out")
    if missing != "refuse":
        what = "means that fill gaps are made of sums over rows, and nothing bounds what a row adds to these"
        raise ConfigError(what, where="rows.missing", fix="fill gaps at the sites, and leave it out")
    if config.data.task != "classification":
        what = f"{config.data.task} begins with sums of targets, and nothing bounds what a row adds to these"
        raise ConfigError(what, where="rows.task", fix="leave it out, or [privacy]")


def check_rows(config: Config, n_rows: int, site: str) -> None:
    """Refuse a site with more rows than fit into a batch, where rows are the unit: before it tells or pays anything.

    Args:
        config: The run's settings.
        n_rows: That the site trains on.
        site: Its name.

    Raises:
        ConfigError: It names both numbers.
    """
    most = config.training.batch_size
    if config.privacy.unit == "rows" and n_rows >= most:
        what = f"site {site!r} has {n_rows} rows, and with rows as the unit all have to fit into a batch of {most}"
        raise ConfigError(what, where="training.batch_size", fix="set it above the number of rows of every site")


def _words(step: Step, privacy: PrivacySettings) -> str:
    """What `[privacy]` makes of a step's messages."""
    if privacy.unit == "clients":
        return f"updates are cut to length {privacy.clip:g} in all, whatever the rows, and have noise of the site's own"
    if noisy_by_itself(step):
        return "each count has noise of the site's own"
    if step.row_change is not None:
        return "they have noise of the site's own"
    return f"each row's gradient is cut to length {privacy.clip:g}, and the sum has noise of the site's own"


def said(method: Method, privacy: PrivacySettings) -> Method:
    """The method whose steps say what `[privacy]` makes of what they tell: sites list it, and note it in their logs."""
    made: dict[int, Step] = {}  # a step that stands in several places stays one object

    def phase(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        for step in steps:
            tells = f"{step.tells}; {_words(step, privacy)}" if step.tells else ""
            made.setdefault(id(step), replace(step, tells=tells))
        return tuple(made[id(step)] for step in steps)

    program = method.program
    prepare, round, finish = (phase(steps) for steps in (program.prepare, program.round, program.finish))
    return replace(method, program=replace(program, prepare=prepare, round=round, finish=finish))


def guarantee(found: Cost, *, masked: bool) -> str:
    """What is protected, against whom, and at which price: one sentence after the other."""
    whose = (
        "one row, if another stood in its place,"
        if found.unit == "rows"
        else "all of the site's rows, if its updates were zero,"
    )
    singly = " and its counts of words" if found.counts else ""
    seen = f"in sums of the sites that answer{singly}" if masked else "in the site's own messages, each seen by itself"
    releases = f"{found.releases} exchange{'s' * (found.releases != 1)}"
    if found.counts:
        releases += f" and counts of words, of which it changes {len(found.counts)} (ε = {found.counts[0]:g} each)"
    return (
        f"noise hides {whose} {seen}: ε = {found.epsilon:.3g} at δ = {found.delta:g} for the whole run, {releases}. "
        "Not hidden are its name, that it takes part, and how many rows it has"
    )


def line(found: Cost, *, masked: bool) -> str:
    """What is said before a private run."""
    parts = (
        "each site adds a part of it, sized for the fewest sites that a sum may be of: the sum has up to √2 times the "
        "noise that it needs"
        if masked
        else "each site adds all of it, for its messages are seen singly: the sum over n sites has √n times the noise "
        "that it would need under masks (communication.secure)"
    )
    counts = "; counts of words are seen singly, with all of their noise" if found.counts and masked else ""
    return (
        f"[privacy], unit {found.unit}: {guarantee(found, masked=masked)}. Noise comes from the sites' own secrets; "
        f"{parts}{counts}. Sites tell no metrics at the end"
    )
