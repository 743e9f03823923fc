"""What a site has at the end, on its own disk: predictor, proportions, diagnosis; and what rows keep on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open

from fedgmi.data.rows import Rows
from fedgmi.data.standardise import Standardisation
from fedgmi.deploy.settings import FederationSettings
from fedgmi.methods import Method
from fedgmi.protocol.wire import Header
from fedgmi.runs import model_file
from fedgmi.runs.fitted import Fitted
from fedgmi.storage import folder
from fedgmi.storage import tensors as store
from fedgmi.tree import Tree

RESULTS, PROPORTIONS, MODEL = "results", "proportions.json", "model"


def accuracy(method: Method, server: Tree, state: Tree, held_out: Rows | None) -> float | None:
    """Share of held-out rows that the site's own predictor labels rightly; None without such rows, or labels."""
    if held_out is None or held_out.y is None:
        return None
    guess = method.predict(server, state, replace(held_out, y=None, cache={})).argmax(1)
    return float((guess == held_out.y).double().mean())


def write(
    where: Path,
    federation: FederationSettings,
    site: str,
    header: Header,
    method: Method,
    server: Tree,
    state: Tree,
    scale: Standardisation | None,
    told: dict[str, Any],
) -> None:
    """`results/`: proportions.json, diagnosis.json where there is one, and model/, which `FedGMI.load` reads.

    Of methods other than fedgmi the model is server's and site's state, as tensors by name.
    """
    out = where / RESULTS
    found = None if method.proportions is None else method.proportions(state)[0].tolist()
    about = {"site": site, "federation": federation.name, "method": method.name, "run": told["run"]}
    folder.write_json(out / PROPORTIONS, folder.finite(about | {"proportions": found, "accuracy": told["accuracy"]}))
    if told["diagnosis"] is not None:
        folder.write_json(out / folder.DIAGNOSIS, folder.finite(about | told["diagnosis"]))
    if method.name != "fedgmi" or method.proportions is None:
        tensors = {f"server/{k}": v for k, v in server.items()} | {f"state/{k}": v for k, v in state.items()}
        store.save(out / f"{MODEL}.json", tensors, about, file=f"{MODEL}.safetensors")
        return
    config, n_components = federation.config(), int(header["n_components"])
    model = Fitted(
        config=config,
        schema=federation.rows.as_schema(),
        names=(site,),
        scale=scale,
        n_components=n_components,
        server=server,
        proportions=method.proportions(state).cpu(),
    )
    parameters = {
        "n_components": n_components,
        "preset": config.method.preset,
        "rounds": config.rounds,
        "epochs": config.training.epochs,
        "batch_size": config.training.batch_size,
        "learning_rate": config.training.lr_candidates("fedgmi")[0],
        "participation": config.method.participation,
        "seed": config.seed,
    }
    model_file.save(out / MODEL, model, parameters)


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
    folder.write_bytes(path, safetensors.torch.save(tensors, {"key": key}))
