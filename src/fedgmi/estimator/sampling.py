"""Rows drawn from a component, as arrays or as a table."""

from __future__ import annotations

from typing import Any

from fedgmi.data import decode
from fedgmi.data.missing import marked_numbers
from fedgmi.errors import ConfigError
from fedgmi.estimator.asking import Asking
from fedgmi.estimator.base import array
from fedgmi.estimator.parameters import whole
from fedgmi.randomness import generator


class Sampling(Asking):
    """Draws of rows."""

    _drawn: dict[int, int]

    def sample(self, n: int = 1, *, component: int, seed: int | None = None, as_frame: bool = False) -> Any:
        """Draw rows from the density of a component.

        Columns that stand for the values of a text or category are 0 or 1, with one 1 for each row: the value that the
        drawn row is nearest to.

        Args:
            n: How many.
            component: Which, from 0.
            seed: Of the draw. None: each call goes on where the last one ended, and a model that was just fitted or
                loaded begins anew.
            as_frame: Whether a table is wanted, with the columns as the federation's table had them.

        Returns:
            Rows, in their own units [n, *shape]; with `as_frame`, a DataFrame of pandas, or a table of Arrow where
            pandas is not installed.

        Raises:
            ConfigError: For no rows, a component that there is not, or a table of pictures.
        """
        with self._asked() as model:
            where = "FedGMI.sample"
            whole(n, "n", 1, where)
            component = whole(component, "component", 0, where)
            if component >= self.n_components_:
                fix = f"choose one of 0..{self.n_components_ - 1}"
                raise ConfigError(f"there is no component {component}", where=where, fix=fix)
            if as_frame and model.schema.kind == "image":
                raise ConfigError("pictures make no table", where=where, fix="leave as_frame out")
            draws = generator(*self._key(model.config.seed, component, seed))
            rows = array(model.sample(n, component, draws))
        values = decode.value_columns(model.schema, self._scale())
        marks = [model.schema.features.index(name) for name in marked_numbers(model.schema.features)]
        rows = decode.one_value(rows, values, marks)
        return decode.table_of(rows, model.schema, values) if as_frame else rows

    def _key(self, own: int, component: int, seed: int | None) -> tuple[int | str, ...]:
        """What a draw is for: the seed's, or the next of the model's own."""
        if seed is not None:
            return (seed, "sample", component)
        number = self._drawn.get(component, 0)
        self._drawn[component] = number + 1
        return (own, "sample", component, number) if number else (own, "sample", component)
