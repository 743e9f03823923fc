"""FedGMI's own settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedgmi.errors import ConfigError
from fedgmi.settings.base import MethodSettings, PositiveInt


class FedGMISettings(MethodSettings):
    """What FedGMI may do.

    Attributes:
        preset: "default", or "plain" (the abstract's recipe), or "sketch" (stage one alone).
        codewords: Cells of the codebook. A word is a cell, or a cell with a label.
        projection: The dimension in which cells are.
        kmeans_rounds: Exchanges in which the codebook is learnt.
        calibration_steps: Fisher steps of a calibration.
        warm_up_rounds: Rounds in which the experts are one model, and words alone are evidence.
        reference_rounds: Rounds after which the reference models, by which rows are judged, stay as they are.
        elbo_samples: Draws for a VAE's bound on log p(x).
        epsilon: Each client's histogram of words goes out with noise, under which any one row is ε-differentially
            private. Nothing else that leaves a client is (docs/privacy.md). None: no noise.
    """

    name: Literal["fedgmi"] = "fedgmi"
    preset: Literal["default", "plain", "sketch"] = "default"
    codewords: PositiveInt = 20
    projection: PositiveInt = 32
    kmeans_rounds: PositiveInt = 10
    calibration_steps: PositiveInt = 8
    warm_up_rounds: PositiveInt = 5
    reference_rounds: PositiveInt = 15
    elbo_samples: PositiveInt = 1
    epsilon: Annotated[float, Field(ge=1e-6, allow_inf_nan=False)] | None = None


def has_histogram(settings: FedGMISettings) -> bool:
    """Whether clients send a histogram of words."""
    return settings.preset != "plain"


def check_fedgmi(settings: FedGMISettings, rounds: int) -> None:
    """Refuse settings that contradict each other.

    Raises:
        ConfigError: For noise on a histogram that nobody sends.
    """
    require_histogram(settings)


def require_histogram(settings: FedGMISettings) -> None:
    """Refuse noise on a histogram that nobody sends.

    Raises:
        ConfigError: It names the preset.
    """
    if settings.epsilon is not None and not has_histogram(settings):
        raise ConfigError(
            f"the preset {settings.preset} sends no histogram that noise could be added to, and nothing else that it "
            "sends is protected",
            where="method.epsilon",
            fix='unset it, or set method.name = "fedgmi" with the preset default or sketch',
        )
