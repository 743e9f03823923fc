"""How much K components explain of what differs between clients, in a sentence or two."""

from __future__ import annotations

from typing import Any

from fedgmi.report.formats import plural

Diagnosis = dict[str, Any]
"""What `diagnosis.json` holds."""

VISIBLE = 1.05
"""Own scatter whose interval begins below is no more than rounding, or chance."""
DIFFERS = "of what differs between these clients"


def headline(diagnosis: Diagnosis) -> list[str]:
    """How many components, what they explain, and what the rest is.

    Args:
        diagnosis: What `diagnosis.json` holds.

    Returns:
        Sentences.

    >>> known = {"n_components": 3, "n_components_estimated": True, "explained": 0.84, "explained_interval": (0.8, 0.9)}
    >>> known |= {"mixture_supported": True, "speaks_against": None, "own_scatter_interval": (1.0, 1.1)}
    >>> headline(known)
    ['3 components explain 84 % (80 to 90 %) of what differs between these clients.']
    """
    k = diagnosis["n_components"]
    first = one(diagnosis) if k == 1 else several(diagnosis)
    return [first, *scattering(diagnosis)]


def one(diagnosis: Diagnosis) -> str:
    """What a single component is: of clients that are alike, or that scatter, or too few."""
    asked = "" if diagnosis["n_components_estimated"] else ", as you asked"
    if few := too_few(diagnosis):
        return f"One component{asked}, as far as {few} can tell."
    if not diagnosis["mixture_supported"]:
        return f"One component{asked}. What differs between these clients is not shapeless: they are not of one kind."
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
        rest = f"no {k} distributions have these clients between them"
    else:
        rest = "the rest is not shapeless"
    return f"{plural(k, 'direction')} explain {share} {DIFFERS}; {rest}: no mixture of {k}."


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
    """How much clients scatter on their own; nothing where they may not."""
    if not scatters(diagnosis):
        return []
    low, high = diagnosis["own_scatter_interval"]
    vary = f"counts vary {diagnosis['own_scatter']:.1f} ({low:.1f} to {high:.1f}) times as much"
    vary += " as those of rows drawn at random."
    if diagnosis["n_components"] > 1:
        return [f"The rest is each client's own: {vary}"]
    own = diagnosis["mixture_supported"] and not too_few(diagnosis)
    return [f"That is each client's own: {vary}" if own else f"Their {vary}"]
