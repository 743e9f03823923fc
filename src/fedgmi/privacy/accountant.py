"""What releases with noise cost together: (ε, δ) of a row, or of a client, from the mechanisms that made them.

Three bounds hold at once, and the least is taken (`composed`):

    basic      Σ ε_j, Σ δ_j                                                  (Dwork & Roth 2014, theorem 3.16)
    gaussian   Gaussian mechanisms make one of μ² = Σ (Δ_j/σ_j)², whose δ(ε) is known exactly (Balle & Wang 2018,
               theorem 8; Dong, Roth & Su 2022); the others are added to it
    Rényi      Σ of the divergences of order α, the best α (Mironov 2017; to (ε, δ) by Canonne, Kamath & Steinke 2020,
               proposition 12)

Queries may be chosen by those who have seen the earlier answers; the strength of the noise may not, but for the basic
bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

ORDERS = (*(1 + n / 10 for n in range(1, 100)), *range(11, 64), *(2.0**n for n in range(6, 14)))
"""α at which Rényi divergences are summed."""


@dataclass(frozen=True)
class Spending:
    """What was released.

    Attributes:
        mu: √Σ (Δ/σ)² of Gaussian mechanisms.
        pure: ε of every geometric mechanism at sensitivity 1.
        other: (ε, δ) of releases of which no more is known.
    """

    mu: float = 0.0
    pure: tuple[float, ...] = ()
    other: tuple[tuple[float, float], ...] = ()

    def gaussian(self, noise_multiplier: float, times: int = 1) -> Spending:
        """With some Gaussian releases more.

        Args:
            noise_multiplier: σ/Δ of each, above 0.
            times: How many.

        Returns:
            The sum.

        Examples:
            >>> Spending().gaussian(2.0, 4).mu, Spending().gaussian(2.0, 2).gaussian(2.0, 2).mu
            (1.0, 1.0)
        """
        return Spending(math.sqrt(self.mu**2 + times / noise_multiplier**2), self.pure, self.other)

    def geometric(self, epsilon: float) -> Spending:
        """With one geometric release more, of ε at sensitivity 1."""
        return Spending(self.mu, (*self.pure, epsilon), self.other)

    def unknown(self, epsilon: float, delta: float) -> Spending:
        """With a release more of which (ε, δ) is all that is known."""
        return Spending(self.mu, self.pure, (*self.other, (epsilon, delta)))

    def epsilon(self, delta: float) -> float:
        """The ε of all that was released, at this δ.

        Args:
            delta: δ; above 0 where there is a Gaussian release.

        Returns:
            The least of the bounds; infinite where δ is too small for what was released.

        Examples:
            >>> Spending().geometric(1.0).geometric(0.5).epsilon(0.0)
            1.5
            >>> round(Spending().gaussian(1.0).epsilon(1e-5), 3)
            4.377
        """
        rest, left = math.fsum(e for e, _ in self.other), delta - math.fsum(d for _, d in self.other)
        if left < 0 or (left == 0 and self.mu > 0):
            return math.inf
        bounds = [math.fsum(self.pure) + gaussian_epsilon(self.mu, left)]
        if left > 0:
            bounds.append(min(_converted(order, self._renyi(order), left) for order in ORDERS))
        return rest + min(bounds)

    def _renyi(self, order: float) -> float:
        return order * self.mu**2 / 2 + math.fsum(geometric_renyi(epsilon, order) for epsilon in self.pure)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """δ(ε) of a Gaussian mechanism, exactly: Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ) (Balle & Wang 2018, theorem 8).

    Args:
        mu: Δ/σ, above 0.
        epsilon: ε, from 0 on.

    Examples:
        >>> round(gaussian_delta(1.0, 0.0), 6)  # the total variation of two normal laws
        0.382925
    """
    gap = epsilon / mu
    first, second = _normal_cdf(mu / 2 - gap), _normal_cdf(-mu / 2 - gap)
    return first - (math.exp(epsilon + math.log(second)) if second > 0 else 0.0)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least ε at which a Gaussian mechanism is (ε, δ)-private, by bisection of `gaussian_delta`.

    Args:
        mu: Δ/σ; 0: nothing was released.
        delta: δ, above 0 where μ is.
    """
    if mu == 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    return _least(lambda epsilon: gaussian_delta(mu, epsilon) <= delta)


def geometric_renyi(epsilon: float, order: float) -> float:
    """The Rényi divergence of the geometric mechanism at sensitivity 1, in closed form.

        D_α = 1/(α − 1) · log[(e^{(α−1)ε} + e^{−αε}) / (1 + e^{−ε})]

    It is that of randomised response: each outcome is e^ε times likelier on one side or on the other, and nothing lies
    between. No more than min(ε, α·ε²/2).

    Args:
        epsilon: ε of the mechanism.
        order: α, above 1.

    Examples:
        >>> round(geometric_renyi(1.0, 2.0), 6), round(geometric_renyi(1.0, 1e3), 3)
        (0.735326, 1.0)
    """
    top = (order - 1) * epsilon
    return (top + math.log1p(math.exp(-order * epsilon - top)) - math.log1p(math.exp(-epsilon))) / (order - 1)


def noise_multiplier(epsilon: float, delta: float, times: int, pure: Iterable[float] = ()) -> float:
    """The σ/Δ at which so many Gaussian releases, beside geometric ones, cost ε.

    Args:
        epsilon: What all may cost.
        delta: δ, above 0.
        times: How many Gaussian releases there are.
        pure: ε of each geometric release.

    Returns:
        The least noise multiplier, to a part in a million.

    Raises:
        ValueError: Where the geometric releases alone cost as much.

    Examples:
        >>> found = noise_multiplier(3.0, 1e-3, 30)
        >>> round(Spending().gaussian(found, 30).epsilon(1e-3), 4)
        3.0
    """
    return _noise_multiplier(epsilon, delta, times, tuple(pure))


@lru_cache(maxsize=64)  # it takes a twentieth of a second, and a site needs the same one several times a message
def _noise_multiplier(epsilon: float, delta: float, times: int, pure: tuple[float, ...]) -> float:
    others = Spending(pure=pure)
    if others.epsilon(delta) >= epsilon:
        raise ValueError(f"the counts alone cost ε = {others.epsilon(delta):g}, and {epsilon:g} is to be spent")
    return _least(lambda sigma: sigma > 0 and others.gaussian(sigma, times).epsilon(delta) <= epsilon)


class Entry(Protocol):
    """What is known of a release; `privacy.ledger.Release` is one."""

    @property
    def epsilon(self) -> float: ...
    @property
    def delta(self) -> float: ...
    @property
    def about(self) -> Mapping[str, float | str]: ...


GAUSSIAN, GEOMETRIC, BOTH = "gaussian", "geometric", "gaussian and geometric"
"""Mechanisms by which a release is entered. The last is a whole run: Gaussian releases of one μ² in all, and counts of
which a row changes `counts`, each with noise of `count_epsilon`."""
A_ROW_MORE, REPLACED, CLIENTS = "row more", "rows", "clients"
"""Whose presence an entry's ε is about: a row that is added or removed, one with another in its place, or all rows."""


def composed(delta: float) -> Callable[[Sequence[Entry]], tuple[float, float]]:
    """How a ledger adds up its releases at this δ: it knows geometric and Gaussian ones by their `about`.

    Entries of several units are counted for one row. With another in its place it changes two counts, where an entry is
    of a row that is added or removed. An update that is cut to a length, against zero, moves by two lengths at most. So
    the former cost their ε twice, the latter have half of the noise.

    Args:
        delta: δ that all together may have; 0: ε are added up, and Gaussian releases cost what they say.

    Returns:
        (releases) → ε and δ of all of them.
    """

    def compose(entries: Sequence[Entry]) -> tuple[float, float]:
        spent, units = Spending(), units_of(entries)
        for entry in entries:
            spent = _with(spent, entry, units, exact=delta > 0)
        at = max(delta, math.fsum(d for _, d in spent.other))
        return spent.epsilon(at), at

    return compose


def units_of(entries: Iterable[Entry]) -> set[str]:
    """Whose presence the entries' ε are about, as far as this fedgmi knows."""
    return {_unit(entry) for entry in entries} - {""}


def _unit(entry: Entry) -> str:
    """Whose presence an entry's ε is about; "" where only a later fedgmi knows."""
    return A_ROW_MORE if entry.about.get("mechanism") == GEOMETRIC else str(entry.about.get("unit", ""))


def _with(spent: Spending, entry: Entry, units: Set[str], *, exact: bool) -> Spending:
    """With an entry more, among such of these units. exact: by its mechanism, where that is known."""
    about, mechanism, unit = entry.about, entry.about.get("mechanism"), _unit(entry)
    if mechanism == GEOMETRIC:
        twice = spent.geometric(entry.epsilon) if REPLACED in units else spent
        return twice.geometric(entry.epsilon)
    halved = unit == CLIENTS and len(units) > 1
    if not exact or mechanism not in (GAUSSIAN, BOTH):
        epsilon, delta = entry.epsilon, entry.delta
        return spent.unknown(2 * epsilon, _twice(epsilon, delta)) if halved else spent.unknown(epsilon, delta)
    for _ in range(int(about["counts"]) if mechanism == BOTH else 0):
        spent = spent.geometric(float(about["count_epsilon"]))
    return spent.gaussian(float(about["noise_multiplier"]) / (2 if halved else 1))


def _twice(epsilon: float, delta: float) -> float:
    """δ at 2ε of what is (ε, δ)-private for each of two steps, from one state of rows to a third."""
    return min(1.0, (1 + math.exp(min(epsilon, 700.0))) * delta)


def _converted(order: float, divergence: float, delta: float) -> float:
    """ε at δ of what has this Rényi divergence; 0 at least."""
    epsilon = divergence + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
    return max(0.0, epsilon)


def _least(holds: Callable[[float], bool]) -> float:
    """The least number above 0 from which on something holds, from above, to a part in 10⁹."""
    high = 1.0
    while not holds(high):
        high *= 2
    low = 0.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
        if high - low <= 1e-9 * high:
            break
    return high


def _normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2
