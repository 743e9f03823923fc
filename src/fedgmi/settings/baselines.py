"""What rivals add to the settings that all methods share, `[method.NAME]`: by default a value that the paper names, the
one of them that does best here on validation rows (docs/decisions.md)."""

from __future__ import annotations

from typing import Literal

from fedgmi.settings.base import PositiveFloat, PositiveInt, ProperFraction, Section


class FedProxSettings(Section):
    """mu: of the proximal term μ/2·‖w − w_global‖²; 0 would be FedAvg, and is refused."""

    mu: PositiveFloat = 0.001


class DittoSettings(Section):
    """mu: how strongly the personal model is held to the global one; 0 would be local training, and is refused."""

    mu: PositiveFloat = 1.0


class IfcaSettings(Section):
    """init: how the K models start · draws: from how many draws "balanced" takes the best."""

    init: Literal["random", "balanced", "farthest"] = "random"
    draws: PositiveInt = 10


class FedSoftSettings(Section):
    """strength: λ of the proximal terms λ/2·u_is·‖w − c_s‖²; 0 would be local training, and is refused
    · interval: rounds τ between two estimates of u · smoother: u of a cluster that no row prefers."""

    strength: PositiveFloat = 0.01
    interval: PositiveInt = 2
    smoother: PositiveFloat = 1e-4


class CflSettings(Section):
    """mean_below, largest_above: ε1 and ε2, as shares of the longest update of the first round. A cluster is split when
    its mean update is shorter than the one while some client's is longer than the other."""

    mean_below: ProperFraction = 0.12
    largest_above: ProperFraction = 0.5


class FlhcSettings(Section):
    """joint_rounds: n, the rounds of FedAvg before the clustering · distance_threshold: clusters merge while their
    farthest updates are nearer than this; None: until there are K."""

    joint_rounds: PositiveInt = 10
    distance_threshold: PositiveFloat | None = None
