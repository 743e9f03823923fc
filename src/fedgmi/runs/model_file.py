"""A fitted model on disk: `model.json` (settings, schema, names) and the tensors in safetensors. No pickle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedgmi import __version__
from fedgmi.data.rows import Schema
from fedgmi.errors import CheckpointError
from fedgmi.runs import config
from fedgmi.runs.fitted import Fitted
from fedgmi.runs.setup import Setup
from fedgmi.storage import files
from fedgmi.storage import tensors as store

FORMAT = 2
JSON, TENSORS = "model.json", "model.safetensors"
KEYS = frozenset(
    ("format", "fedgmi", "settings", "parameters", "schema", "names", "n_components", "standardise", "bound", "bytes")
)
AGAIN = "save the model again, or restore the folder"


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
    tensors["proportions"] = model.proportions
    meta = {
        "format": FORMAT,
        "fedgmi": __version__,
        "settings": config.dump(model.config),
        "parameters": parameters,
        "schema": asdict(model.schema),
        "names": list(model.names),
        "n_components": model.n_components,
        "standardise": model.setup.standardise,
        "bound": model.bound,
        "bytes": [model.bytes_down, model.bytes_up],
    }
    with files.writing(where):
        where.mkdir(parents=True, exist_ok=True)
    store.save(where / JSON, tensors, meta, file=TENSORS)


def load(where: Path) -> tuple[Fitted, dict[str, Any]]:
    """Read a model.

    Args:
        where: The folder of `save`.

    Returns:
        The model, and the estimator's parameters.

    Raises:
        CheckpointError: Where it is damaged, or of another version.
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
    tensors = store.read_tensors(path, meta, fix=AGAIN)
    settings = config.loads(meta["settings"], str(path))
    model = Fitted(
        setup=Setup(settings, _schema(meta["schema"]), int(meta["n_components"]), bool(meta["standardise"])),
        names=tuple(meta["names"]),
        server=store.part(tensors, "server/"),
        proportions=tensors["proportions"],
        bound=meta["bound"],
        bytes_down=int(meta["bytes"][0]),
        bytes_up=int(meta["bytes"][1]),
    )
    return model, meta["parameters"]


def _schema(found: dict[str, Any]) -> Schema:
    shape, classes, features = (tuple(found[name]) for name in ("shape", "classes", "features"))
    return Schema(shape, int(found["n_classes"]), found["kind"], classes, features)
