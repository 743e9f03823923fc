"""What a site has at the end, on its own disk: predictor, proportions, diagnosis; and what rows keep on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fedgmi.data.rows import Rows, Schema
from fedgmi.methods import Predictor
from fedgmi.runs.metrics import majority, measure, per_class
from fedgmi.runs.setup import Setup
from fedgmi.storage import files, folder
from fedgmi.storage import tensors as store
from fedgmi.tree import Tree

ESTIMATOR = "fedgmi"  # the method whose models `FedGMI.load` reads
RESULTS, PROPORTIONS, METRICS, MODEL = "results", "proportions.json", "metrics.json", "model"


def quality(
    predictor: Predictor, server: Tree, state: Tree, train: Rows, held_out: Rows | None, schema: Schema
) -> dict[str, Any]:
    """How good the site's own predictor is on its held-out rows.

    Args:
        predictor: The method's.
        server: What it reads of the server's state.
        state: The site's own.
        train: The site's training rows.
        held_out: The rows in question.
        schema: What rows look like.

    Returns:
        `metrics` by name, `majority_accuracy`, and numbers `per_class`; nothing without such rows, or labels.
    """
    if held_out is None or held_out.y is None or train.y is None:
        return {}
    logs = predictor.predict(server, state, replace(held_out, y=None, cache={}, by_content=True))
    if schema.task != "classification":
        return {"metrics": measure(logs, held_out.y, task=schema.task)}
    return {
        "metrics": measure(logs, held_out.y),
        "majority_accuracy": majority(train.y.cpu(), held_out.y.cpu()),
        "per_class": per_class(logs, held_out.y, schema.classes),
    }


def write(
    where: Path, setup: Setup, federation: str, site: str, server: Tree, state: Tree, known: dict[str, Any]
) -> None:
    """Write `results/`: proportions.json, metrics.json, diagnosis.json, and model/, which `FedGMI.load` reads.

    Of methods other than fedgmi the model is the server's and the site's state, as tensors by name.

    Args:
        where: The site's folder.
        setup: What the method was made from.
        federation: Its name.
        site: The site's name.
        server: What the predictor reads of the server's state.
        state: The site's own.
        known: What `quality` found, the site's part of the `diagnosis`, and the `run`'s name.
    """
    out, method = where / RESULTS, setup.method()
    tell = method.predictor.proportions
    found = None if tell is None else tell(state)[0].tolist()
    about = {"site": site, "federation": federation, "method": method.name, "run": known["run"]}
    accuracy = known["quality"].get("metrics", {}).get("accuracy")
    files.write_json(out / PROPORTIONS, files.finite(about | {"proportions": found, "accuracy": accuracy}))
    if known["quality"]:
        files.write_json(out / METRICS, files.finite(about | known["quality"]))
    if known["diagnosis"] is not None:
        files.write_json(out / folder.DIAGNOSIS, files.finite(about | known["diagnosis"] | about))
    if method.predictor.pooled is None or tell is None or method.name != ESTIMATOR:
        tensors = {f"server/{k}": v for k, v in server.items()} | {f"state/{k}": v for k, v in state.items()}
        store.save(out / f"{MODEL}.json", tensors, about, file=f"{MODEL}.safetensors")
        return
    own = {name: state[name].cpu() for name in method.predictor.own if name in state}
    _write_model(out / MODEL, setup, site, server, tell(state).cpu(), own)


def _write_model(where: Path, setup: Setup, site: str, server: Tree, proportions: Tensor, own: Tree) -> None:
    """As `FedGMI.save` writes it."""
    from fedgmi.runs import model_file  # once, at the end: a message does without it
    from fedgmi.runs.fitted import Fitted

    config = setup.config
    model = Fitted(setup=setup, names=(site,), server=server, proportions=proportions, own=own)
    parameters = {
        "n_components": setup.n_components,
        "preset": config.method.model_dump()["preset"],
        "rounds": config.rounds,
        "epochs": config.training.epochs,
        "batch_size": config.training.batch_size,
        "learning_rate": config.training.lr_candidates(config.method.name)[0],
        "participation": config.method.participation,
        "seed": config.seed,
        "task": setup.schema.task,
    }
    model_file.save(where, model, parameters)


def read_cache(path: Path, key: str, rows: Rows) -> None:
    """Give rows back what they kept between two exchanges, where it is of this key. Losing it costs time alone."""
    try:
        with safe_open(str(path), "pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return
            for name in file.keys():  # noqa: SIM118  # not a dict
                rows.cache[name] = file.get_tensor(name).to(rows.x.device)
    except (OSError, SafetensorError):
        rows.cache.clear()


def write_cache(path: Path, key: str, rows: Rows) -> None:
    """Keep what rows may reuse in the next exchange, whose process is another one."""
    tensors = {name: leaf.detach().cpu().contiguous().clone() for name, leaf in rows.cache.items()}
    files.write_bytes(path, safetensors.torch.save(tensors, {"key": key}))
