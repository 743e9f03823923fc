"""`diagnosis.json`: what `fedgmi diagnose` found, or a deployment's coordinator."""

from __future__ import annotations

from fedgmi.runs.records.base import Written
from fedgmi.storage import folder


class DiagnosisRecord(Written):
    """Components of a federation, whether it is a mixture of them, and how well each client's proportions are known.

    Attributes:
        scenario: Its name; a deployment's own name.
        seed: Of all draws.
        clients: Their names.
        rows_per_client: Of training.
        bytes_down: To all clients.
        bytes_up: From all clients.
        seconds: Spent.
        n_components: K, with which proportions and the test are made.
        n_components_estimated: Whether K was.
        true_n_components: Where it is known.
        proportion_tv: Mean total variation between estimated and realised proportions, where those are known.
        singular_values: Of the clients' differences, from the largest.
        noise: What chance makes of them on average, if all clients were alike.
        threshold: The most that chance makes.
        mixture_supported: Whether nothing speaks against a mixture of K components.
        misfit_per_dof: Of all clients; 1 is expected of a mixture.
        p_value: Of that misfit.
        test_size: Below which p-value something speaks against a mixture.
        client_misfit: Per degree of freedom, by client.
        client_p_value: By client.
        unfit_clients: Places of those that do not fit.
        proportions: Estimated. [client, component]; components in the order of the true ones where those are known, and
            in that of the sketch otherwise, as a run of fedgmi with the same seed has them.
        proportion_intervals: [client, component, (low, high)]
        interval_level: Of the intervals.
        interval_width: Their mean width.
        purest: The largest share of each component in any client.
        anchor_mass: Share of each component's rows in words that it has nearly for itself.
        warnings: What to beware of, in words.
    """

    file = folder.DIAGNOSIS
    what = "a diagnosis of fedgmi"
    known_by = frozenset(("n_components", "singular_values", "mixture_supported", "clients"))
    again = "diagnose anew, into another folder: fedgmi diagnose --out DIR"

    scenario: str
    seed: int
    clients: list[str]
    rows_per_client: list[int]
    bytes_down: int
    bytes_up: int
    seconds: float
    n_components: int
    n_components_estimated: bool
    true_n_components: int | None
    proportion_tv: float | None
    singular_values: list[float]
    noise: list[float]
    threshold: float
    mixture_supported: bool
    misfit_per_dof: float | None
    p_value: float
    test_size: float
    client_misfit: list[float | None]
    client_p_value: list[float]
    unfit_clients: list[int]
    proportions: list[list[float]]
    proportion_intervals: list[list[tuple[float, float]]]
    interval_level: float
    interval_width: float
    purest: list[float]
    anchor_mass: list[float]
    warnings: list[str]
