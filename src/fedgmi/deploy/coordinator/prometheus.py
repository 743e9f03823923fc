"""A deployment's status as Prometheus reads it: `metrics.prom` for node_exporter's textfile collector.

The format is that of https://prometheus.io/docs/instrumenting/exposition_formats/ (0.0.4). Names and what they mean
stand in `docs/operations.md`; a test holds the page to `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from fedgmi.letters import printable
from fedgmi.runs.records import SiteStatus, Status

METRICS = "metrics.prom"
STATES: tuple[str, ...] = get_args(Status.model_fields["state"].annotation)


@dataclass(frozen=True)
class Family:
    """A metric.

    Attributes:
        name: Without the prefix.
        kind: "gauge" or "counter".
        told: What it is, for HELP.
        of_site: (a site) → its value.
        of_all: (the status) → the value, where it is none of a site.
    """

    name: str
    kind: Literal["gauge", "counter"]
    told: str
    of_site: Callable[[SiteStatus], float] | None = None
    of_all: Callable[[Status], float] | None = None


FAMILIES = (
    Family("round", "gauge", "The present round; 0 is the preparation.", of_all=lambda all: all.round),
    Family("rounds", "gauge", "How many rounds there are.", of_all=lambda all: all.rounds),
    Family("updated_seconds", "gauge", "When the coordinator wrote this, unix time.", of_all=lambda all: all.updated),
    Family("deadline_seconds", "gauge", "An exchange takes no longer.", of_all=lambda all: all.deadline_s),
    Family("sites_expected", "gauge", "How many sites there are to be.", of_all=lambda all: all.n_sites),
    Family("site_up", "gauge", "1 where the site's SuperNode is connected.", of_site=lambda site: float(site.alive)),
    Family("site_last_round", "gauge", "The last round it answered in; -1: none.", of_site=lambda s: s.last_round),
    Family("site_last_seen_seconds", "gauge", "When it answered last, unix time.", of_site=lambda s: s.last_seen),
    Family("site_rows", "gauge", "Rows that it trains on.", of_site=lambda site: site.rows),
    Family("site_received_bytes_total", "counter", "Bytes that it was sent.", of_site=lambda site: site.bytes_down),
    Family("site_sent_bytes_total", "counter", "Bytes that came from it.", of_site=lambda site: site.bytes_up),
    Family("site_absent_total", "counter", "How often it was absent.", of_site=lambda site: site.absent),
)
STATE = Family("state", "gauge", "1 for the state that the run is in.")


def text(status: Status) -> str:
    """All metrics of a deployment.

    Args:
        status: As the coordinator wrote it.

    Returns:
        The text, which ends with a line break.

    Examples:
        >>> found = text(Status(name="wards", round=3, rounds=10, state="running", updated=1.0, sites={}))
        >>> print(found.splitlines()[2])
        fedgmi_state{federation="wards",state="waiting"} 0
    """
    return "\n".join(_lines(status)) + "\n"


def _lines(status: Status) -> Iterator[str]:
    whose = {"federation": status.name}
    yield from _head(STATE)
    for state in STATES:
        yield _line(STATE, whose | {"state": state}, float(state == status.state))
    for family in FAMILIES:
        yield from _head(family)
        if family.of_all is not None:
            yield _line(family, whose, family.of_all(status))
        if family.of_site is not None:
            for name, site in sorted(status.sites.items()):
                yield _line(family, whose | {"site": name}, family.of_site(site))


def _head(family: Family) -> Iterator[str]:
    yield f"# HELP fedgmi_{family.name} {family.told}"
    yield f"# TYPE fedgmi_{family.name} {family.kind}"


def _line(family: Family, labels: dict[str, str], value: float) -> str:
    told = ",".join(f'{name}="{_escaped(label)}"' for name, label in labels.items())
    return f"fedgmi_{family.name}{{{told}}} {value:.17g}"


def _escaped(label: str) -> str:
    """As the format has it, and without what a terminal takes for an order: a name could else end the line."""
    return printable(label).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
