"""The table of scenarios: who holds which rows. A scenario is one function and one line in `SCENARIOS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedgmi.data.federation import Federation, check_federation
from fedgmi.data.rows import Schema
from fedgmi.data.scenarios.gaussian import gaussian
from fedgmi.data.scenarios.mixtures import domain, label_swap, labels, mixed, pathological, rotation
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.data.sources.by_column import split_by_column
from fedgmi.data.sources.sources import load_source
from fedgmi.data.validate import check_scalable
from fedgmi.errors import ConfigError, unknown
from fedgmi.plugins import Table
from fedgmi.settings.effects import all_but, changed, refuse_without_effect
from fedgmi.settings.run import DataSettings, ScenarioSettings


@dataclass(frozen=True)
class ScenarioSpec:
    """One scenario, as a line of the table `SCENARIOS`.

    Attributes:
        summary: A line about it.
        build: (section `data`, section `scenario`, seed) → the federation and the truth.
        has_truth: Whether the component of each row is known.
        own_rows: Whether it draws its rows itself, from densities that are known in the rows' own units.
        uses: The settings of the section `scenario` that have an effect; those of an outside package may all have one.
    """

    summary: str
    build: Callable[[DataSettings, ScenarioSettings, int], Scenario]
    has_truth: bool = True
    own_rows: bool = False
    uses: tuple[str, ...] = tuple(ScenarioSettings.model_fields)

    def check(self, data: DataSettings, scenario: ScenarioSettings) -> None:
        """Refuse settings that would be ignored in silence.

        Raises:
            ConfigError: It names the setting.
        """
        users = [name for name, spec in OWN.items() if spec.uses != self.uses]
        for field in changed(scenario, all_but(scenario, self.uses)):
            fix = f"set scenario.name to {' or '.join(name for name in users if field in OWN[name].uses)}"
            refuse_without_effect(scenario, "scenario", [field], f"the scenario is {scenario.name}", fix=fix)
        if self.own_rows:
            why = f"the scenario {scenario.name} draws its rows itself"
            refuse_without_effect(data, "data", all_but(data, ("standardise",)), why, fix="choose another scenario")


def build_scenario(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """Build the federation that the settings describe, and check it.

    Args:
        data: The section `data`.
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        The federation, and the truth about it where there is one.

    Raises:
        ConfigError: For a scenario that there is not, and for settings that it cannot meet.
        DataError: For data that it cannot use.

    Examples:
        >>> built = build_scenario(DataSettings(), ScenarioSettings(name="rotation", n_clients=4), seed=0)
        >>> built.federation.names, built.truth.drawn.shape
        (('client-00', 'client-01', 'client-02', 'client-03'), torch.Size([4, 3]))
    """
    if scenario.name not in SCENARIOS:
        raise unknown("scenario", scenario.name, SCENARIOS, "scenario.name")
    SCENARIOS[scenario.name].check(data, scenario)
    built = SCENARIOS[scenario.name].build(data, scenario, seed)
    check_federation(built.federation)
    return built


def wants_scale(data: DataSettings, scenario: ScenarioSettings, schema: Schema) -> bool:
    """Whether rows are to be standardised.

    Args:
        data: The section `data`. Its `standardise` says so, or is "auto".
        scenario: The section `scenario`.
        schema: What rows look like.

    Returns:
        What the settings say. "auto" stands for True with tables from a data set and for False otherwise.

    Raises:
        DataError: Where pictures are to be standardised, which are in [0, 1] already.
    """
    if data.standardise == "auto":
        return schema.kind == "tabular" and not SCENARIOS[scenario.name].own_rows
    if data.standardise:
        check_scalable(schema)
    return data.standardise


def by_column(data: DataSettings, scenario: ScenarioSettings, seed: int) -> Scenario:
    """P_i is the distribution of the rows whose `client_column` has the i-th value. It may be a mixture or not.

    Args:
        data: The section `data`.
        scenario: The section `scenario`.
        seed: The run's.

    Returns:
        The federation. There is no truth about components.

    Raises:
        ConfigError: Where `client_column` is not set.
        DataError: Where too few values have `min_rows` rows.

    A FedgmiWarning says which rows and clients are left out.
    """
    if scenario.client_column is None:
        raise ConfigError(
            "the by-column scenario needs a column that names each row's client",
            where="scenario.client_column",
            fix="set it to such a column, for example writer_id",
        )
    parts = split_by_column(
        load_source(data, extra_column=scenario.client_column),
        scenario.client_column,
        n_clients=scenario.n_clients,
        rows_per_client=scenario.rows_per_client,
        held_out_rows=scenario.held_out_rows,
        min_rows=scenario.min_rows,
        validation_share=scenario.validation_share,
        seed=seed,
    )
    return Scenario(Federation(*parts))


def _wrong(name: str, entry: object) -> str:
    return "" if isinstance(entry, ScenarioSpec) else f"it is a {type(entry).__name__}, not a ScenarioSpec"


ANY = ("n_clients", "rows_per_client", "held_out_rows", "n_components")  # the last is K, where nobody says another
DRAWN = (*ANY, "size_ratio")
MIXED = (*DRAWN, "alpha")
OWN = {
    "rotation": ScenarioSpec("pictures turned by 0, 90, 180 or 270 degrees", rotation, uses=MIXED),
    "labels": ScenarioSpec(
        "each component has some of the labels; they overlap", labels, uses=(*MIXED, "labels_per_component")
    ),
    "label-swap": ScenarioSpec("the same rows, the labels renamed: only p(y | x) differs", label_swap, uses=MIXED),
    "domain": ScenarioSpec("plain, inverted and noisy pictures", domain, uses=MIXED),
    "gaussian": ScenarioSpec(
        "Gaussian rows with linear labels: every density in closed form; needs no data",
        gaussian,
        own_rows=True,
        uses=(*MIXED, "n_features", "separation"),
    ),
    "pathological": ScenarioSpec(
        "each client has its own rotation: no mixture at all", pathological, has_truth=False, uses=DRAWN
    ),
    "mixed": ScenarioSpec(
        "two thirds of the clients are mixtures of turns; each other has a rotation of its own",
        mixed,
        has_truth=False,
        uses=MIXED,
    ),
    "by-column": ScenarioSpec(
        "clients as a column of the data gives them",
        by_column,
        has_truth=False,
        uses=(*ANY, "client_column", "min_rows", "validation_share"),
    ),
}
SCENARIOS: Table[ScenarioSpec] = Table("scenario", "scenarios", OWN, _wrong)
"""Every scenario by its name in the settings."""
