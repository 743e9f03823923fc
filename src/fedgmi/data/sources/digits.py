"""scikit-learn's handwritten digits, without scikit-learn: to import it takes as long as a fifth of a run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fedgmi.data.sources.arrays import Array

FILE = Path("datasets", "data", "digits.csv.gz")
"""Where scikit-learn keeps them, in its own folder."""


def read_digits() -> tuple[Array, Array]:
    """Read the digits of Alpaydin and Kaynak (1998), "Optical Recognition of Handwritten Digits".

    Returns:
        The pictures, with whole numbers from 0 to 16 [1797, 8, 8], and their classes from 0 to 9 [1797].

    Examples:
        >>> pictures, classes = read_digits()
        >>> pictures.shape, int(pictures.max()), classes[:5].tolist()
        ((1797, 8, 8), 16, [0, 1, 2, 3, 4])
    """
    spec = find_spec("sklearn")  # which imports nothing
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        if (Path(folder) / FILE).is_file():
            rows = np.loadtxt(Path(folder) / FILE, delimiter=",")
            return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits  # it keeps them elsewhere

    bunch = load_digits()
    return bunch.images, bunch.target
