"""`fedgmi predict`: what a site's own model says of new rows, and whether such rows are still those that it knows.

It asks what `FedGMI` asks, of the same parts, and says the same.
"""

from __future__ import annotations

import csv
import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedgmi.data.encode import classes
from fedgmi.deploy.site import snapshot
from fedgmi.deploy.site.filled import filled_words
from fedgmi.deploy.site.results import PROPORTIONS, RESULTS
from fedgmi.deploy.site.site_data import read_unlabelled
from fedgmi.drift import Monitor
from fedgmi.drift.report import Report
from fedgmi.errors import CheckpointError, ConfigError, DataError, FedgmiWarning, UserError
from fedgmi.methods.target_scale import cumulative
from fedgmi.modes import own_modes
from fedgmi.runs import model_file, survival_metrics, target_metrics
from fedgmi.runs.fitted import Fitted
from fedgmi.runs.whose import Array, member
from fedgmi.storage import files

DRIFT = "drift.json"
SAMPLES = 16  # draws for a VAE's bound, as in `FedGMI.score_samples`
ALARMS = ("proportions moved", "rows no longer fit")


@dataclass(frozen=True)
class Predicted:
    """What a model says of rows.

    Attributes:
        columns: By name, an entry for each row: columns that were kept, what is predicted, and responsibilities.
        drift: What the monitor says after these rows; None where they are not watched.
        notes: What else is to be known.
    """

    columns: dict[str, list[Any]]
    drift: Report | None
    notes: tuple[str, ...]

    @property
    def alarmed(self) -> bool:
        """Whether the client's proportions have moved, or its rows no longer fit."""
        return self.drift is not None and self.drift.state in ALARMS

    def to_csv(self) -> str:
        """A line for each row, below one of names."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(zip(*self.columns.values(), strict=True))
        return text.getvalue()


@dataclass
class _Asked:
    """A model as `drift.Monitor` knows it."""

    model: Fitted
    n_components_: int = field(init=False)
    client_names_: tuple[str, ...] = field(init=False)
    weights_: Array = field(init=False)

    def __post_init__(self) -> None:
        self.n_components_, self.client_names_ = self.model.n_components, self.model.names
        self.weights_ = self.model.proportions.detach().cpu().numpy()

    def log_ratios(self, x: Tensor, y: Any = None) -> Array:
        return _array(self.model.evidence(self.model.rows(x)))

    def component_log_prob(self, x: Tensor) -> Array:
        return _array(self.model.log_density(x, SAMPLES))


def _model_in(folder: Path) -> Path:
    """The folder itself, where there is a model; else what was meant is said.

    Raises:
        CheckpointError: There is none, and one is below it.
    """
    below = [folder / part for part in ("model", "results/model", "site/results/model")]
    meant = next((path for path in below if (path / model_file.JSON).exists()), None)
    if (folder / model_file.JSON).exists():
        return folder
    fix = f"did you mean {meant}?" if meant else "at a site a finished run leaves it in site/results/model"
    raise CheckpointError("no model lies there", where=str(folder), fix=fix)


def predict(
    model: Path,
    rows: Path,
    *,
    client: str | None = None,
    keep: Sequence[str] = (),
    times: Sequence[float] = (),
    reference: Path | None = None,
    watch: bool = True,
) -> Predicted:
    """Ask a model about rows, and watch them for drift. The monitor's state is kept in the model's folder.

    Args:
        model: A folder of a saved model, such as a site's results/model.
        rows: A table, or a folder of pictures. Labels are not looked at.
        client: Whose rows they are, by name. None: the model's only client.
        keep: Columns to show beside what is predicted, such as the patient's number.
        times: For survival, until when the chance of no event is asked for.
        reference: Rows of this client that the model was not trained on, by which the monitor learns how rows should
            be. None: those that the site held out, where the run's snapshot is there, or else the first batches.
        watch: Whether these rows count for the monitor.

    Returns:
        What it says.

    Raises:
        CheckpointError: Where there is no model, or it is damaged.
        DataError: For rows that are not like those that the model was fitted to, values outside the federation's
            ranges included, or a client that it does not know.
        ConfigError: For times without survival.
    """
    found, _ = model_file.load(_model_in(model))
    if times and found.schema.task != "survival":
        raise ConfigError(f"the task is {found.schema.task}", where="--times", fix="leave them out")
    given = read_unlabelled(rows, found.schema, keep)
    x, kept = given.x, given.kept
    name = _client(found, client)
    notes = [f"not looked at: {', '.join(given.ignored)}"] if given.ignored else []
    notes += filled_words(x, found.schema, given.columns, given.unknown)
    with own_modes(), torch.no_grad():
        said = _said(found, x, name, times)
        report = None
        if watch:
            seen = None if reference is None else read_unlabelled(reference, found.schema).x
            try:
                report = _watched(found, model, x, name, seen, notes)
            except (ConfigError, DataError) as error:  # no densities, or a row so far away that it has none
                notes.append(f"drift is not judged by these rows: {error.what}")
    overlap = sorted(kept.keys() & said.keys())
    if overlap:
        raise DataError(f"{overlap[0]!r} is a column of the predictions, too", where="--keep", fix="rename the column")
    return Predicted(kept | said, report, tuple(notes))


def _client(model: Fitted, client: str | None) -> str:
    if client is None and len(model.names) > 1:
        fix = f"say which with --client: {', '.join(model.names[:8])}"
        raise UserError(f"the model knows {len(model.names)} clients", where="--client", fix=fix)
    return model.names[0] if client is None else client


def _said(model: Fitted, x: Tensor, client: str, times: Sequence[float]) -> dict[str, list[Any]]:
    """What is predicted, by the task, and each component's responsibility."""
    who = member(model, client)
    rows, weights = model.rows(x), torch.from_numpy(who.weights)
    said: dict[str, list[Any]] = {}
    if model.schema.labelled:
        numbers = _array(model.method.predictor.predict(model.server, model.state(weights, who.place, who.own), rows))
        said |= _of_task(model, numbers, times)
    resp = _array(model.posterior(rows, weights))
    return said | {f"component_{k}": _rounded(resp[:, k]) for k in range(model.n_components)}


def _of_task(model: Fitted, numbers: Array, times: Sequence[float]) -> dict[str, list[Any]]:
    if model.schema.task == "regression":
        low, high = target_metrics.interval_of(numbers, 0.9).T
        named = {"mean": target_metrics.mean_of(numbers), "lower_90": low, "upper_90": high}
        return {name: _rounded(values) for name, values in named.items()}
    if model.schema.task == "survival":
        said = {"log_risk": _rounded(survival_metrics.risk_of(numbers))}
        if not times:
            return said
        expected = _array(cumulative(model.server, torch.tensor(list(times), dtype=torch.float64)))
        survival = survival_metrics.survival_of(numbers, expected)
        return said | {f"survival_{t:g}": _rounded(survival[:, i]) for i, t in enumerate(times)}
    labels = classes(model.schema)
    chances = {f"probability_{label}": _rounded(np.exp(numbers[:, i])) for i, label in enumerate(labels.tolist())}
    return {"label": labels[numbers.argmax(1)].tolist()} | chances


def _watched(model: Fitted, where: Path, x: Tensor, client: str, reference: Tensor | None, notes: list[str]) -> Report:
    """The monitor's word after these rows; its state is kept for the next ones."""
    asked, path = _Asked(model), where / DRIFT
    digest = hashlib.blake2b((where / model_file.JSON).read_bytes(), digest_size=16).hexdigest()
    known = _known(path, digest, client)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", FedgmiWarning)
        if known is None:
            monitor = _begun(asked, model, where, client, reference, notes)
        else:
            monitor = _restored(asked, known, path)
        report = monitor.update(x)
    notes.extend(dict.fromkeys(str(warning.message) for warning in said))
    files.write_json(path, {"model": digest, "monitor": monitor.to_dict()})
    return report


def _begun(
    asked: _Asked, model: Fitted, where: Path, client: str, reference: Tensor | None, notes: list[str]
) -> Monitor:
    """A monitor that has learnt what usual rows are like."""
    seen = _held_out(model, where) if reference is None else reference
    monitor = Monitor(asked, client, reference=None if seen is None else (seen, None))
    told = "learning from the first rows" if seen is None else f"learning from {len(seen)} rows"
    told += " that were held out" if reference is None and seen is not None else ""
    notes.append(f"drift is watched from now on, {told}")
    return monitor


def _restored(asked: _Asked, known: dict[str, Any], path: Path) -> Monitor:
    """The monitor as it was after the rows before."""
    try:
        return Monitor.from_dict(asked, known)
    except CheckpointError as error:
        fix = "remove it; the monitor then begins anew"
        raise CheckpointError(error.what, where=str(path), fix=fix) from error
    except ConfigError as error:
        raise CheckpointError(f"{error.where}: {error.what}", where=str(path), fix="remove it") from error


def _known(path: Path, digest: str, client: str) -> dict[str, Any] | None:
    """What was seen of this client with this model before; None: nothing."""
    if not path.exists():
        return None
    fix = "remove it; the monitor then begins anew"
    found = files.read_json(path, "the state of a drift monitor", {"model", "monitor"}, fix)
    same = found["model"] == digest and isinstance(found["monitor"], dict) and found["monitor"].get("client") == client
    return found["monitor"] if same else None


def _held_out(model: Fitted, where: Path) -> Tensor | None:
    """The rows that the site held out in the run that made its model, where they are still there."""
    results = where.resolve().parent
    if results.name != RESULTS or not (results / PROPORTIONS).exists():
        return None
    about = files.read_json(results / PROPORTIONS, "a site's proportions", {"run"}, "give rows with --reference")
    kept = snapshot.of_run(results.parent, about["run"])
    if kept is None or kept.held_out is None or tuple(kept.held_out.x.shape[1:]) != model.schema.shape:
        return None
    return kept.held_out.x


def _array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().cpu().numpy())


def _rounded(values: Array) -> list[float]:
    """Six digits: more of them are noise of float32."""
    return [float(f"{value:.6g}") for value in values.tolist()]
