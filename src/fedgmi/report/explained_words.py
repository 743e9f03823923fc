"""How much K components explain of what differs between clients, in a sentence or two."""

from __future__ import annotations

from typing import Any

from fedgmi.report.formats import plural

Diagnosis = dict[str, Any]
"""What `diagnosis.json` holds."""

VISIBLE = 1.05
"""Own scatter whose interval begins below is no more than rounding, or chance."""
DIFFERS = "of what differs between these clients"
ANYTHING = 0.95
"""An interval as wide as this says nothing."""


def headline(diagnosis: Diagnosis) -> list[str]:
    """How many components, what they explain, and what the rest is.

    Args:
        diagnosis: What `diagnosis.json` holds.

    Returns:
        Sentences.

    >>> known = {"n_components": 3, "n_components_estimated": True, "explained": 0.84, "explained_interval": (0.8, 0.9)}
    >>> known |= {"mixture_supported": True, "speaks_against": "roundness", "own_scatter_interval": (1.0, 1.1)}
    >>> known |= {"clients": ["a", "b", "c", "d"]}
    >>> headline(known)
    ['3 components explain 84 % (80 to 90 %) of what differs between these clients.']
    """
    k = diagnosis["n_components"]
    first = one(diagnosis) if k == 1 else several(diagnosis)
    return [first, *scattering(diagnosis)]


def verdict(diagnosis: Diagnosis) -> list[str]:
    """How many components there are, what they explain, and what to beware of; a report of all has more.

    Args:
        diagnosis: What `diagnosis.json` holds.

    Returns:
        Sentences.

    >>> known = {"n_components": 1, "n_components_estimated": False, "clients": ["a", "b"]}
    >>> verdict(known | {"own_scatter_interval": (1.0, 1.1), "warnings": ["There are two clients."]})
    ['One component, as you asked, as far as two clients can tell.', 'Beware: There are two clients.']
    """
    return [*headline(diagnosis), *(f"Beware: {warning}" for warning in diagnosis["warnings"])]


def one(diagnosis: Diagnosis) -> str:
    """What a single component is: of clients that are alike, or that scatter, or that it does not describe."""
    asked = "" if diagnosis["n_components_estimated"] else ", as you asked"
    if few := too_few(diagnosis):
        return f"One component{asked}, as far as {few} can tell."
    if not diagnosis["mixture_supported"]:
        verb = f"{asked}, does" if asked else " does"
        alone = "" if asked else ", though no direction stands out alone"
        return f"One component{verb} not describe these clients: what they differ in is not shapeless{alone}."
    if scatters(diagnosis):
        return f"One component{asked}; each client scatters on its own."
    return f"One component{asked}. All clients look alike."


def several(diagnosis: Diagnosis) -> str:
    """The share that K components explain, and whether the rest lets them be components at all."""
    k, share = diagnosis["n_components"], explained(diagnosis)
    asked = "" if diagnosis["n_components_estimated"] else ", as you asked"
    if share is None:
        return f"{plural(k, 'component')}{asked}, but these clients differ no more than by chance."
    if not tested(diagnosis):
        clients = f"any {len(diagnosis['clients'])} clients"
        return f"{plural(k, 'component')}{asked}. They leave nothing over, as of {clients}: that tells nothing."
    if diagnosis["mixture_supported"]:
        verb = f"{asked}, explain" if asked else " explain"
        return f"{plural(k, 'component')}{verb} {share} {DIFFERS}."
    if diagnosis["speaks_against"] == "simplex":
        rest = f"but these clients do not lie between any {k} distributions"
    else:
        rest = "the rest is not shapeless"
    verb = "explains" if k == 2 else "explain"
    return f"{plural(k - 1, 'direction')} {verb} {share} {DIFFERS}; {rest}: no mixture of {k} components."


def too_few(diagnosis: Diagnosis) -> str | None:
    """One client or two, which can tell nothing of components, in words; None of more."""
    return {1: "a single client", 2: "two clients"}.get(len(diagnosis["clients"]))


def tested(diagnosis: Diagnosis) -> bool:
    """Whether K components leave anything over by which a mixture could be told from anything else."""
    return diagnosis["speaks_against"] is not None


def explained(diagnosis: Diagnosis) -> str | None:
    """The share with its interval, in whole percent; None where nothing differs."""
    if diagnosis["explained"] is None:
        return None
    low, high = diagnosis["explained_interval"]
    if high - low > ANYTHING:
        return "anything from nothing to all"
    return f"{percent(diagnosis['explained'])} % ({percent(low)} to {percent(high)} %)"


def percent(share: float) -> str:
    """A share in whole percent.

    >>> percent(0.836)
    '84'
    """
    return f"{100 * share:.0f}"


def scatters(diagnosis: Diagnosis) -> bool:
    """Whether clients scatter on their own beyond doubt."""
    return bool(diagnosis["own_scatter_interval"][0] >= VISIBLE)


def scattering(diagnosis: Diagnosis) -> list[str]:
    """How much clients scatter on their own; nothing where they may not.

    Where the rest is not shapeless, it is not known to be scatter. The figure then takes it for that.
    """
    if not scatters(diagnosis):
        return []
    own, low, high = (times(value) for value in (diagnosis["own_scatter"], *diagnosis["own_scatter_interval"]))
    vary = f"counts of each kind of row vary {own} ({low} to {high}) times as much as in rows drawn at random."
    alone = diagnosis["n_components"] == 1
    if too_few(diagnosis):
        return [f"Their {vary}"]
    if not diagnosis["mixture_supported"]:
        return [f"Taken for own scatter, {'it makes' if alone else 'the rest makes'} {vary}"]
    return [f"Its {vary}" if alone else f"The rest is each client's own: its {vary}"]


def times(value: float) -> str:
    """A multiple: with a decimal place where it is small.

    >>> times(1.27), times(1455.9)
    ('1.3', '1,456')
    """
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
