"""A run that begins with the last model: a monthly refresh in place of a run from the beginning.

It takes the place of the preparation. No codebook is learnt, no histogram is asked for, and no noise is drawn: the
components of the earlier run stay what they were, in their order, and are trained further. Sites begin as newcomers do:
their proportions come from the rows that they have now.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedgmi.deploy.settings import FederationSettings
from fedgmi.errors import ConfigError
from fedgmi.methods import Method
from fedgmi.methods.contract import joins_as_newcomer
from fedgmi.storage import checkpoint, folder
from fedgmi.tree import Tree

LASTING = ("seed", "rows", "method", "density", "expert")
"""What has to be as it was: else components would be something else, or rows of another kind."""
AGREED = "agreed"  # where a checkpoint has them
WHERE = "warm_start in federation.toml"


def lasting(settings: FederationSettings) -> dict[str, Any]:
    """What a later run has to have in the same way, as JSON values."""
    found: dict[str, Any] = json.loads(settings.model_dump_json(include=set(LASTING)))
    return found


def first_state(settings: FederationSettings, method: Method) -> Tree:
    """The state of the server that a run begins with in place of that after the preparation.

    Args:
        settings: federation.toml. `warm_start` names the results of the earlier run.
        method: What is run.

    Returns:
        The earlier run's last state.

    Raises:
        ConfigError: Where that run is not finished, its rows or models were others, or sites cannot join the method
            later.
        CheckpointError: Where its checkpoint is damaged, or another fedgmi wrote it.
    """
    where = Path(str(settings.warm_start)).expanduser()
    if not joins_as_newcomer(method, 1):
        private = settings.privacy.unit == "rows" and settings.method.n_components != 1
        what = f"{method.name} has no way for sites to join a run that has begun"
        what += ": with [privacy] proportions are of counts, and these are asked for at its beginning" * private
        raise ConfigError(what, where=WHERE, fix="leave it out" + ", or take the method fedgmi" * (not private))
    path = where / folder.CHECKPOINTS / f"{method.name}.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        digest, agreed, rounds = meta["digest"], meta[AGREED], meta["round"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        fix = "name the results folder of a finished run of this fedgmi, with its checkpoints"
        raise ConfigError(f"{path} holds no checkpoint to begin with", where=WHERE, fix=fix) from error
    if not (where / folder.SUMMARY).exists():
        fix = "let it finish first: the same `flwr run` goes on with it"
        raise ConfigError(f"the run in {where} is not finished (round {rounds})", where=WHERE, fix=fix)
    now = lasting(settings)
    other = [name for name in LASTING if not isinstance(agreed, dict) or agreed.get(name) != now[name]]
    if other:
        what = f"{', '.join(other)} of federation.toml differ{'s' * (len(other) == 1)} from those of the run in {where}"
        fix = "set what differs as it was, or leave warm_start out: the run then begins from the beginning"
        raise ConfigError(what, where=WHERE, fix=fix)
    found = checkpoint.load(where / folder.CHECKPOINTS, method.name, digest=str(digest))
    assert found is not None
    return found.server
