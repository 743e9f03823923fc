"""A fitted model on disk: `model.json` (settings, schema, names) and the tensors in safetensors. No pickle."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedgmi import __version__
from fedgmi.data.rows import Range, Schema
from fedgmi.errors import CheckpointError, ConfigError, FedgmiError, UserError
from fedgmi.methods.standardising import scale_of
from fedgmi.methods.target_scale import EDGES, EXPECTED
from fedgmi.models.own import Own
from fedgmi.protocol.words import one_line
from fedgmi.randomness import generator
from fedgmi.runs import config
from fedgmi.runs.fitted import Fitted
from fedgmi.runs.setup import Setup
from fedgmi.storage import files
from fedgmi.storage import tensors as store
from fedgmi.tree import Tree

FORMAT = 3
JSON, TENSORS = "model.json", "model.safetensors"
KEYS = frozenset(
    (
        "format",
        "fedgmi",
        "settings",
        "parameters",
        "schema",
        "names",
        "n_components",
        "standardise",
        "bound",
        "bytes",
        "history",
        "best_round",
        "learning_rate",
        "columns",
    )
)
AGAIN = "save the model again, or restore the folder"
TRIED = 3
"""Rows on which models of the user's own are asked before they are saved, and after they are loaded."""


def save(where: Path, model: Fitted, parameters: dict[str, Any]) -> None:
    """Write a model.

    Args:
        where: The folder.
        model: What to write.
        parameters: Those of the estimator, as plain JSON values.

    Raises:
        UserError: Where the folder cannot be written.
    """
    tensors = {f"server/{key}": leaf for key, leaf in model.server.items()}
    tensors |= {f"own/{key}": leaf for key, leaf in model.own.items()}
    tensors["proportions"] = model.proportions
    answers = _answers(model.setup, model.server)
    meta = {
        "format": FORMAT,
        "fedgmi": __version__,
        "settings": config.dump(model.config),
        "parameters": parameters,
        "schema": files.finite(asdict(model.schema)),
        "names": list(model.names),
        "n_components": model.n_components,
        "standardise": model.setup.standardise,
        "own": {name: _described(getattr(model.setup, name)) for name in ("expert", "density")},
        "own_answers": {name: answer.tolist() for name, answer in answers.items()},
        "bound": model.bound,
        "bytes": [model.bytes_down, model.bytes_up],
        "history": list(model.history),
        "best_round": model.best_round,
        "learning_rate": model.learning_rate,
        "columns": [model.client_column, model.label_column],
        "rows_decide": model.rows_decide,
        "budget": model.budget,
    }
    with files.writing(where):
        where.mkdir(parents=True, exist_ok=True)
    store.save(where / JSON, tensors, meta, file=TENSORS)


def load(where: Path, *, expert: Own = None, density: Own = None) -> tuple[Fitted, dict[str, Any]]:
    """Read a model.

    Args:
        where: The folder of `save`.
        expert: The user's own, where the model was fitted with one.
        density: Likewise.

    Returns:
        The model, and the estimator's parameters.

    Raises:
        CheckpointError: Where it is damaged, or of another version, or an expert or a density of its own is not here.
    """
    path = where / JSON
    if not path.exists():
        raise CheckpointError("no model lies there", where=str(where), fix="give the folder of FedGMI.save")

    def check(meta: dict[str, Any]) -> None:
        if meta.get("format") != FORMAT:
            raise CheckpointError(
                f"a model of format {meta.get('format')} (fedgmi {meta.get('fedgmi', '?')}), where this fedgmi "
                f"{__version__} reads format {FORMAT}",
                where=str(path),
                fix="load it with the fedgmi that saved it, or fit it anew",
            )
        if not meta.keys() >= KEYS:
            missing = ", ".join(sorted(KEYS - meta.keys()))
            raise CheckpointError(f"it lacks {missing}", where=str(path), fix=AGAIN)

    meta = store.read_meta(path, check, kind="model", fix=AGAIN)
    with as_damaged(path):
        model = _model(path, meta, store.read_tensors(path, meta, fix=AGAIN), expert, density)
        _try(model)
        return model, dict(meta["parameters"])


@contextmanager
def as_damaged(path: Path) -> Iterator[None]:
    """What fails in the block fails because of what the file says: it was altered, for its check is right.

    Raises:
        CheckpointError: It names the kind of failure.
    """
    try:
        yield
    except FedgmiError:
        raise
    except Exception as error:
        what = f"what it says cannot be ({type(error).__name__}: {one_line(str(error), 200)})"
        raise CheckpointError(what, where=str(path), fix=AGAIN) from error


def _model(path: Path, meta: dict[str, Any], tensors: Tree, expert: Own, density: Own) -> Fitted:
    """What the file's values and tensors stand for."""
    settings = config.loads(meta["settings"], str(path))
    for name, given in (("expert", expert), ("density", density)):
        _require(name, given, meta.get("own", {}).get(name), path.parent)
    schema, n_components = _schema(meta["schema"]), int(meta["n_components"])
    server, standardise = store.part(tensors, "server/"), bool(meta["standardise"])
    agreed = None if standardise or schema.missing != "refuse" else scale_of(server)  # with [privacy], of ranges
    setup = Setup(settings, schema, n_components, standardise, expert, density, agreed)
    _check_models(setup, server, path)
    _check_answers(setup, server, meta.get("own_answers", {}), path)
    names, proportions = tuple(meta["names"]), tensors["proportions"]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError("names of clients that are no texts, or not each another")
    if not names or tuple(proportions.shape) != (len(names), n_components) or not bool(proportions.isfinite().all()):
        raise ValueError(f"{len(names)} names and proportions of shape {list(proportions.shape)}")
    return Fitted(
        setup=setup,
        names=names,
        server=server,
        proportions=proportions,
        bound=meta["bound"],
        bytes_down=int(meta["bytes"][0]),
        bytes_up=int(meta["bytes"][1]),
        history=tuple(meta["history"]),
        best_round=int(meta["best_round"]),
        learning_rate=meta["learning_rate"],
        client_column=meta["columns"][0],
        label_column=meta["columns"][1],
        own=store.part(tensors, "own/"),
        rows_decide=bool(meta.get("rows_decide", False)),
        budget=meta.get("budget"),
    )


def _try(model: Fitted) -> None:
    """One row is asked about, as users ask: so a model that cannot answer is refused here, and not later."""
    rows, predictor = model.rows(torch.full((1, *model.schema.shape), 0.5)), model.method.predictor
    with torch.no_grad():
        model.posterior(rows, model.proportions[0])
        if model.schema.labelled:
            predictor.predict(model.server, model.state(model.proportions[0], 0), rows)


def _described(own: Own) -> str | None:
    """A name for the user's own model, by which the reader of a message knows it."""
    return None if own is None else str(getattr(own, "__name__", type(own).__name__))


def _require(name: str, given: Own, saved: str | None, where: Path) -> None:
    """The user's own models are code, which is not saved: they have to be given again, and only they."""
    if (given is None) == (saved is None):
        return
    if saved is not None:
        what = f"the model has {'an' if name == 'expert' else 'a'} {name} of its own ({saved}), whose code is not saved"
        fix = f"give it again: FedGMI.load(folder, {name}={saved})"
    else:
        what, fix = f"the model's {name} is one that its settings name", f"leave out {name}="
    raise CheckpointError(what, where=str(where), fix=fix)


def _check_models(setup: Setup, server: Tree, path: Path) -> None:
    """What has been saved needs models that are here, and of the same size; and times need the cells of this fedgmi."""
    if setup.schema.task == "survival" and not {EDGES, EXPECTED} <= server.keys():
        what = "a model of survival of an earlier fedgmi, whose cells of time are not those of this one"
        raise CheckpointError(what, where=str(path), fix="load it with the fedgmi that saved it, or fit it anew")
    try:
        task = setup.task()
    except (ConfigError, UserError) as error:
        fix = "register or install it before the model is loaded, or give it to FedGMI.load"
        raise CheckpointError(f"the model needs what is not here: {error.what}", where=str(path), fix=fix) from error
    for name, size in (("expert", task.expert.size), ("density", task.density.size)):
        if name in server and server[name].shape[-1] != size:
            what = f"the {name} that was saved has {server[name].shape[-1]} parameters, and this one has {size}"
            raise CheckpointError(what, where=str(path), fix=f"give the {name} that the model was fitted with")


def _answers(setup: Setup, server: Tree) -> dict[str, Tensor]:
    """What the user's own models say of the trial rows, at the parameters of all components: logits [K, 3, L] of the
    expert, nats [3, K] of the density. Numbers that JSON has not are others there."""
    if setup.expert is None and setup.density is None:
        return {}
    task = setup.task()
    draws = generator(0, "trial rows of a saved model")
    x = 2 * torch.randn(TRIED, *setup.schema.shape, generator=draws)
    noise = torch.randn(TRIED, 1, task.density.noise_size, generator=draws)
    asked: dict[str, tuple[Own, int, Callable[[Tensor], Tensor]]] = {
        "expert": (setup.expert, task.expert.size, lambda of: task.expert.logits(of, x.expand(len(of), *x.shape))),
        "density": (setup.density, task.density.size, lambda of: task.density.log_prob(of, x, noise)),
    }
    found = {}
    for name, (own, size, ask) in asked.items():
        if own is not None and name in server:
            with torch.no_grad():
                found[name] = ask(server[name].cpu().view(-1, size))
    return {name: answer.nan_to_num() for name, answer in found.items()}


def _check_answers(setup: Setup, server: Tree, saved: dict[str, Any], path: Path) -> None:
    """Models of the user's own have to be those that were saved: as many parameters may mean something else."""
    if not saved:  # of an earlier fedgmi, or none
        return
    for name, answer in _answers(setup, server).items():
        wanted = torch.tensor(saved.get(name, answer.tolist()))
        if answer.shape != wanted.shape or not torch.allclose(answer, wanted, atol=1e-3, rtol=1e-3):
            far = f"by up to {float((answer - wanted).abs().max()):.3g}" if answer.shape == wanted.shape else "in shape"
            what = f"on {TRIED} trial rows this {name} answers otherwise than the one that was saved ({far})"
            fix = f"give the {name} that the model was fitted with; its code or its buffers have changed"
            raise CheckpointError(what, where=str(path), fix=fix)


def _schema(found: dict[str, Any]) -> Schema:
    shape, classes, features = (tuple(found[name]) for name in ("shape", "classes", "features"))
    if not shape or not all(type(n) is int and 0 < n < 2**24 for n in shape) or math.prod(shape) >= 2**24:
        raise ValueError(f"a shape of {list(shape)}")
    if type(found["n_classes"]) is not int or not 0 <= found["n_classes"] < 2**24:
        raise ValueError(f"{found['n_classes']} classes")
    if (classes and len(classes) != found["n_classes"]) or (features and len(features) != shape[0]):
        raise ValueError("names of classes or features, and not as many as there are")
    if not all(isinstance(name, str) for name in (*classes, *features)):
        raise ValueError("names of classes or features that are no texts")
    known = (found["kind"], classes, features, found["label_type"], found["missing"])
    ranges = tuple(_range(features, *each) for each in found.get("ranges", ()))  # earlier models know of none
    return Schema(shape, int(found["n_classes"]), *known, found.get("task", "classification"), ranges)


def _range(features: tuple[str, ...], name: str, least: float | None, greatest: float | None) -> Range:
    """A range as the schema has it; JSON has no infinity, and null stands for it."""
    low, high = -math.inf if least is None else float(least), math.inf if greatest is None else float(greatest)
    if name not in features or not low <= high:
        raise ValueError(f"a range [{low:g}, {high:g}] of {name!r}")
    return name, low, high
