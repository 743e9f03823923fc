"""What a monitor keeps of itself, as a model: a state that some rows could have led to, or it is refused."""

from __future__ import annotations

from fedgmi.drift.charts import CAPACITY, LEVELS
from fedgmi.drift.report import State
from fedgmi.storage.own_files import Amount, Count, Number, OwnFile, Share

MOST_SEEN = 10**8
"""Rows of one client. Charts of proportions lay them out one by one."""


class KeptPool(OwnFile):
    """Scores of one component's rows, and how many fell between and on them."""

    values: list[Number]
    counts: list[Count]

    def wrong(self) -> str:
        """A cell for each value and each gap; values ascend."""
        if len(self.counts) != 2 * len(self.values) + 1 or len(self.values) > CAPACITY:
            return "watch.fits: counts are not those of the values"
        ascending = all(a < b for a, b in zip(self.values, self.values[1:], strict=False))
        return "" if ascending else "watch.fits: values do not ascend"


class KeptWatch(OwnFile):
    """Charts, and what rows are compared with."""

    levels: list[list[Count]]
    fits: list[KeptPool]
    cusum: list[Amount]
    path: list[list[Number]]

    def wrong(self) -> str:
        """All charts are there, and all have seen the same rows."""
        sums = {sum(row) for row in self.levels}
        if any(len(row) != LEVELS + 1 for row in self.levels) or len(sums) > 1:
            return "watch.levels: they are not of the same rows"
        if len(self.levels) not in (0, len(self.fits)) or len(self.cusum) != len(self.levels) + 2:
            return "watch: charts are missing"
        if any(len(z) != len(self.cusum) for z in self.path):
            return "watch.path: charts are missing"
        if max(*sums, 0, sum(sum(pool.counts) for pool in self.fits)) > MOST_SEEN:
            return f"watch: more than {MOST_SEEN:,} rows"
        return next((pool.wrong() for pool in self.fits if pool.wrong()), "")


class KeptMonitor(OwnFile):
    """`Monitor.to_dict`."""

    what = "the state of a drift monitor"
    format: int
    client: str
    average_run_length: Amount
    seed: int
    weights: list[Share]
    labelled: bool | None
    watch: KeptWatch | None
    state: State
    cause: Count | None
    change_point: Count | None
    batch: Count
    recent: list[tuple[Count, list[list[Number]]]]

    def wrong(self) -> str:
        """Proportions are some, what moved is told with since when, and charts are of the same components."""
        n, charts = len(self.weights), 0 if self.watch is None else len(self.watch.cusum)
        if not abs(sum(self.weights) - 1) < 1e-3:
            return "weights: they do not add up to 1"
        if self.watch is None and self.state != "learning":
            return "state: nothing was seen"
        if self.watch is not None and (self.watch.wrong() or len(self.watch.fits) != n):
            return self.watch.wrong() or "watch.fits: there is not one for each component"
        if any(len(row) != n for _, rows in self.recent for row in rows) or not all(rows for _, rows in self.recent):
            return "recent: there is not a number for each component"
        if self.cause is not None and self.cause >= charts:
            return "cause: there is no such chart"
        if self.state in ("learning", "in control"):
            return ""
        since = self.change_point
        if self.cause is None or since is None or since >= self.batch:
            return "change_point: it is not told what moved, and since when"
        there = any(batch > since for batch, _ in self.recent)
        return "" if there else "recent: there are no rows since the change"
