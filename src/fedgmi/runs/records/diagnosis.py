"""`diagnosis.json`: what `fedgmi diagnose` found, or a deployment's coordinator."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

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
        noise: What chance and clients' own scatter make of them on average, if clients shared all else.
        threshold: The most that chance and own scatter make.
        explained: Of what differs between clients beyond chance, the share that K components explain; the rest is each
            client's own. 0 for one component. Unknown where clients differ no more than by chance.
        explained_interval: Of that share, from low to high. Null for one component, which explains nothing by
            definition.
        own_scatter: φ̂ = 1 + (n̄ − 1)·ρ̂, the variance of the counts of a client with the mean number of rows n̄ around its
            mixture, as a multiple of that of rows drawn independently; 1: clients do not scatter on their own.
        own_scatter_interval: Of it, from low to high.
        mixture_supported: Whether nothing speaks against a mixture of K components, around which each client scatters.
        speaks_against: What speaks most against one: a further direction, the roundness of what is left over, or the
            simplex that clients should lie in.
        p_value: Of a mixture of K components.
        test_size: Below which p-value something speaks against a mixture.
        client_misfit: Per degree of freedom, by client; 1 is expected, own scatter included.
        client_p_value: By client.
        unfit_clients: Places of those that do not fit.
        proportions: Estimated. [client, component]; components in the order of the true ones where those are known, and
            in that of the sketch otherwise, as a run of fedgmi with the same seed has them.
        proportion_intervals: [client, component, (low, high)]
        interval_level: Of the intervals.
        interval_width: Their mean width.
        purest: The largest share of each component in any client.
        anchor_mass: Share of each component's rows in words that it has nearly for itself.
        rows_decide: Whether rows show just K clusters, which are then taken for the components.
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
    explained: float | None
    explained_interval: tuple[float, float] | None
    own_scatter: float
    own_scatter_interval: tuple[float, float]
    mixture_supported: bool
    speaks_against: Literal["direction", "roundness", "simplex"] | None
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
    rows_decide: bool = False
    warnings: list[str]

    @model_validator(mode="after")
    def _one_entry_a_client_and_component(self) -> Self:
        n, k = len(self.clients), self.n_components
        if k < 1:
            raise ValueError(f"n_components is {k}")
        of_clients = "rows_per_client", "client_misfit", "client_p_value", "proportions", "proportion_intervals"
        lengths = [(key, getattr(self, key), n, "clients") for key in of_clients]
        lengths += [(key, getattr(self, key), k, "components") for key in ("purest", "anchor_mass")]
        for key in ("proportions", "proportion_intervals"):
            lengths += [(key, of_client, k, "components") for of_client in getattr(self, key)]
        for key, found, expected, whose in lengths:
            if len(found) != expected:
                raise ValueError(f"{key} has {len(found)} entries for {expected} {whose}")
        if any(not 0 <= i < n for i in self.unfit_clients):
            raise ValueError(f"unfit_clients names none of {n} clients")
        return self
