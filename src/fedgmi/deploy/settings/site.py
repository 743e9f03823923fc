"""`site.toml`: each site's own settings, and federations that they refuse."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedgmi.deploy.link import LinkSettings
from fedgmi.deploy.settings.federation import FederationSettings
from fedgmi.errors import LimitError
from fedgmi.methods import METHODS
from fedgmi.settings.base import Fraction, OwnName, PositiveFloat, PositiveInt, Section
from fedgmi.settings.run import DataSettings


class SiteSettings(Section):
    """`site.toml`.

    Attributes:
        name: The site's. No other site has it.
        folder: Where its state, models and results are kept. Paths are relative to the file.
        data: Where its rows are.
        held_out: The fraction of rows that training never sees. They test the site's predictor.
        validation: The fraction of the other rows that training does not see either. They choose what the site has of
            its own, and choose with the other sites' rows what methods leave to rows for validation.
        device: Where it trains.
        threads: Of the CPU; None: as torch has them.
        mask_secret: A text that all sites have agreed on without the coordinator, of 16 letters or more. With masks it
            shows that keys are the sites' own, and none of the coordinator's making. It is never sent.
        only_masked: Whether the site answers nothing that shows its own numbers: sums have masks, and histograms noise.
        same_sites: Whether all masked sums of the site are over the same sites, in all runs. A site that fails then
            stops a run until it is back. See `deploy.site.sums`.
        part_of_steps: The part of its local steps that the site makes in a round, where it would be too slow for all of
            them: ⌈u·steps⌉ of each model's. Its models count by their rows all the same.
        max_runs: How many runs there may be over one version of the rows; None: any number. See `deploy.site.guard`.
        max_epsilon: What all noisy releases of the site's rows together may cost; None: no limit. See `privacy.ledger`.
        max_releases: How many there may be; None: any number.
        max_delta: The δ of all noisy releases together. With one above 0 their ε is less than the sum, where there are
            many (`privacy.accountant`); 0: ε add up, and what `[privacy]` adds, which needs a δ, is beyond a limit.
        max_request_mb: A request of more megabytes is refused unread.
        tell_metrics: Whether the coordinator is told how good the site's predictor is on rows held out: exact functions
            of these rows, which neither noise nor masks cover. None: where the federation has no `method.epsilon`.
        superlink: Where `fedgmi site serve` finds the coordinator, and by which key it is known there.
    """

    name: OwnName
    folder: str = "site"
    data: DataSettings
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.2
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: PositiveInt | None = None
    mask_secret: Annotated[str, Field(min_length=16)] | None = None
    only_masked: bool = False
    same_sites: bool = False
    part_of_steps: Fraction = 1.0
    max_runs: PositiveInt | None = 5
    max_epsilon: PositiveFloat | None = None
    max_releases: PositiveInt | None = None
    max_delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_request_mb: PositiveFloat = 1024.0
    tell_metrics: bool | None = None
    superlink: LinkSettings = LinkSettings()

    @property
    def most_delta(self) -> float | None:
        """δ of all noisy releases together at most; None: nothing is limited."""
        return None if self.max_epsilon is None and self.max_delta == 0 else self.max_delta


def check_limits(site: SiteSettings, federation: FederationSettings) -> None:
    """Refuse a federation that a site does not take part in, and a limit that would limit nothing.

    Args:
        site: site.toml.
        federation: federation.toml.

    Raises:
        LimitError: Where a site limits what noisy releases cost, and the federation adds no noise; where it insists on
            masks and noise, and the federation lacks them.
    """
    _check_masked(site, federation)
    limits = [name for name in ("max_epsilon", "max_releases") if getattr(site, name) is not None]
    if limits and not federation.noisy:
        raise LimitError(
            f"{limits[0]} limits releases with noise, and neither method.epsilon nor [privacy] is set: what leaves is "
            "exact",
            where=f"settings of site {site.name!r}",
            fix=f"ask the coordinator for one of them, or leave {limits[0]} out",
        )


def _check_masked(site: SiteSettings, federation: FederationSettings) -> None:
    where, method = f"settings of site {site.name!r}", federation.method
    insists = [name for name in ("only_masked", "same_sites") if getattr(site, name)]
    if insists and not federation.masked:
        raise LimitError(
            f"{insists[0]} is set, and federation.toml has no masks: the coordinator would see this site's own numbers",
            where=where,
            fix=f'ask the coordinator for communication.secure = "masks", or leave {insists[0]} out',
        )
    seen = METHODS[method.name].has_histogram(method) and federation.epsilon is None
    if site.only_masked and seen:
        raise LimitError(
            "only_masked is set, and method.epsilon is unset: the histogram of words is seen singly and would be exact",
            where=where,
            fix='ask the coordinator for method.epsilon or preset = "plain", or leave only_masked out',
        )


def tells_metrics(site: SiteSettings, federation: FederationSettings) -> bool:
    """Whether a site tells how good its predictor is on rows held out: never with `[privacy]` or `only_masked`."""
    if federation.privacy.on or site.only_masked:
        return False
    if site.tell_metrics is not None:
        return site.tell_metrics
    return federation.epsilon is None
