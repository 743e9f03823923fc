"""Whose proportions are meant: a client's by name or place, or proportions that stand for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fedgmi.errors import DataError, nearest
from fedgmi.runs.fitted import Fitted

Array = npt.NDArray[Any]


def weights_of(model: Fitted, client: Any) -> Array:
    """The proportions of a client.

    Args:
        model: With the clients that it was fitted to.
        client: A name, a place among the names, or proportions [K] themselves.

    Returns:
        Proportions. [K]

    Raises:
        DataError: For a client that was not in the federation, or numbers that are no proportions.
    """
    weights = model.proportions.detach().cpu().numpy()
    if isinstance(client, str):
        if client not in model.names:
            guess = nearest(client, model.names)
            known = f"did you mean {guess!r}?" if guess else f"known: {', '.join(model.names[:10])}"
            fix = f"{known}. For a new client give infer_weights(x) in its place"
            raise DataError(f"no client of that name was in the federation: {client!r}", where="client", fix=fix)
        return np.asarray(weights[model.names.index(client)])
    if isinstance(client, int | np.integer):
        if not 0 <= client < len(model.names):
            fix = f"0..{len(model.names) - 1}, or a name"
            raise DataError(f"there is no client {client}", where="client", fix=fix)
        return np.asarray(weights[int(client)])
    given = np.asarray(client, dtype=float)
    if given.shape != (model.n_components,) or not np.isclose(given.sum(), 1.0, atol=1e-4) or given.min() < 0:
        fix = f"give {model.n_components} shares of at least 0 that sum to 1, or the name of a client"
        raise DataError(f"{np.round(given, 4).tolist()} are no proportions", where="client", fix=fix)
    return given
