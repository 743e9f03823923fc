"""FedGMI's own settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedgmi.errors import ConfigError
from fedgmi.settings.base import Cells, Count, Exchanges, MethodSettings, Passes, PositiveInt, Turns
from fedgmi.settings.effects import refuse_without_effect

WARM_UP = 5


class FedGMISettings(MethodSettings):
    """What FedGMI may do.

    Attributes:
        preset: "default", or "plain" (the abstract's recipe), or "sketch" (stage one alone).
        judges: What judges rows beside their words. "density": the densities and experts as they are trained.
            "closed": Gaussians made of sums, from which a client takes its own out; densities are trained all the
            same, in the first `reference_rounds`. "auto": "closed" where labels are classes, else "density".
        judge_turns: How often judges in closed form and proportions take turns before the first round, at most: the
            turns end when the components' shares of labels move by less than a tenth of their sampling error. A turn
            is 2 + 2·`calibration_steps` exchanges.
        codewords: Cells of the codebook. A word is a cell, or a cell with a label.
        projection: The dimension in which cells are.
        kmeans_rounds: Exchanges in which the codebook is learnt.
        calibration_steps: Fisher steps of a calibration.
        warm_up_rounds: Rounds in which the experts are one model, and words alone are evidence. Unset: five, or half of
            the rounds where there are fewer than ten.
        reference_rounds: Rounds after which the reference models, by which rows are judged, stay as they are. 0, where
            judges are in closed form: densities are never trained, and nothing can be drawn from them or scored.
        elbo_samples: Draws for a VAE's bound on log p(x).
        personal: Whether clients end with a part of their own, which never travels (docs/estimator.md).
        epsilon: Each client's histogram of words goes out with noise, under which any one row is ε-differentially
            private. Nothing else that leaves a client is, without `[privacy]` (docs/privacy.md). None: no noise.
    """

    name: Literal["fedgmi"] = "fedgmi"
    preset: Literal["default", "plain", "sketch"] = "default"
    judges: Literal["auto", "density", "closed"] = "auto"
    judge_turns: Turns = 8
    codewords: Cells = 20
    projection: Cells = 32
    kmeans_rounds: Exchanges = 10
    calibration_steps: Turns = 8
    warm_up_rounds: PositiveInt | None = None
    reference_rounds: Count = 15
    elbo_samples: Passes = 1
    personal: bool = True
    epsilon: Annotated[float, Field(ge=1e-6, allow_inf_nan=False)] | None = None

    @property
    def warm_up(self) -> int:
        """Rounds of warm-up, where nobody knows how many rounds there are."""
        return WARM_UP if self.warm_up_rounds is None else self.warm_up_rounds


def choose_judges(settings: FedGMISettings, n_classes: int) -> FedGMISettings:
    """The settings with "auto" decided; docs/decisions.md has by what figures.

    Args:
        settings: With judges of any kind.
        n_classes: L; 0 where labels are no classes, and without labels.

    Returns:
        The settings, with judges "density" or "closed".

    Examples:
        >>> [choose_judges(FedGMISettings(judges="auto"), n_classes).judges for n_classes in (10, 0)]
        ['closed', 'density']
    """
    if settings.judges != "auto":
        return settings
    closed = n_classes > 0 and settings.preset == "default"
    return settings.model_copy(update={"judges": "closed" if closed else "density"})


UNUSED = {
    "plain": (
        "judges",
        "judge_turns",
        "codewords",
        "projection",
        "kmeans_rounds",
        "calibration_steps",
        "warm_up_rounds",
        "reference_rounds",
    ),
    "sketch": ("judges", "judge_turns", "calibration_steps", "reference_rounds"),
    "default": (),
}
"""By preset: settings without effect."""


def settle(settings: FedGMISettings, rounds: int) -> FedGMISettings:
    """The settings of a run of so many rounds: a short one has a short warm-up, or all its experts would be one model.

    Examples:
        >>> [settle(FedGMISettings(), rounds).warm_up for rounds in (1, 2, 5, 9, 10, 30)]
        [0, 1, 2, 4, 5, 5]
    """
    if settings.warm_up_rounds is not None:
        return settings
    return settings.model_copy(update={"warm_up_rounds": min(WARM_UP, rounds // 2)})


def has_histogram(settings: FedGMISettings) -> bool:
    """Whether clients send a histogram of words."""
    return settings.preset != "plain"


def check_fedgmi(settings: FedGMISettings, rounds: int) -> None:
    """Refuse settings that contradict each other.

    Raises:
        ConfigError: For noise on a histogram that nobody sends, and for settings that the preset has no use for.
    """
    require_histogram(settings)
    refuse_without_effect(settings, "method", UNUSED[settings.preset], f"the preset is {settings.preset}")
    if settings.judges == "density":
        refuse_without_effect(settings, "method", ("judge_turns",), "rows are judged by densities (method.judges)")


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
