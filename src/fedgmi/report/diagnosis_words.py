"""A diagnosis in plain words: how many components, whether clients are mixtures of them, how well that is known."""

from __future__ import annotations

from fedgmi.report.explained_words import Diagnosis, headline, scatters, tested, too_few
from fedgmi.report.formats import listed, number, plural, rows_show, short_share

CLEAR, VISIBLE = 1.3, 1.1
"""A gap is clear, or visible, where the last singular value that counts is as many times the threshold."""
WIDE = 0.5
"""A client's intervals that are as wide on average tell next to nothing."""
FEW_PER_COMPONENT = 3
"""With fewer clients per component, any federation looks like a mixture."""
PURE, OWN_WORDS = 0.8, 0.05
"""A corner can be seen where a client is as pure, or as large a share of a component's rows is unmistakable."""


def answers(diagnosis: Diagnosis) -> dict[str, list[str]]:
    """The questions, each with the sentences that answer it.

    Args:
        diagnosis: What `diagnosis.json` holds.
    """
    which = "of one kind" if diagnosis["n_components"] == 1 else "a mixture of them"
    return {
        "How many components?": how_many(diagnosis),
        f"Is every client {which}?": is_a_mixture(diagnosis),
        "How well are the proportions known?": how_well(diagnosis),
    }


def how_many(diagnosis: Diagnosis) -> list[str]:
    """What K components explain, how clear the gap is, and the truth where it is known.

    Args:
        diagnosis: What `diagnosis.json` holds.

    Returns:
        Sentences.
    """
    values, threshold = diagnosis["singular_values"], diagnosis["threshold"]
    sentences = headline(diagnosis)
    if too_few(diagnosis):
        return sentences
    limit, n_above = f"what chance and own scatter can make ({threshold:.1f})", found(diagnosis) - 1
    if n_above:
        shown = listed([f"{value:.1f}" for value in values[:n_above]])
        verb = "stands" if n_above == 1 else "stand"
        sentences.append(f"{plural(n_above, 'singular value')} ({shown}) {verb} above {limit}.")
        if n_above < len(values):
            sentences.append(f"The next one ({values[n_above]:.1f}) does not.")
    else:
        sentences.append(f"No singular value ({number(values[0], 1)}) is above {limit}.")
    counted = "component" if diagnosis["mixture_supported"] else "direction"
    if n_above < len(values) and near(values[n_above], threshold, diagnosis["noise"][0]):
        sentences.append(f"It comes near: there may be one {counted} more.")
    elif n_above:
        sentences.append(gap(values[n_above - 1] / threshold, counted))
    if diagnosis["true_n_components"] is not None:
        sentences.append(f"The scenario was made of {diagnosis['true_n_components']}.")
    return sentences


def found(diagnosis: Diagnosis) -> int:
    """K̂, whatever number of components was asked for."""
    return 1 + sum(bool(value > diagnosis["threshold"]) for value in diagnosis["singular_values"])


def near(value: float, threshold: float, noise: float) -> bool:
    """Whether the first singular value that does not count is nearer the threshold than what chance makes on average.

    Of clients that differ by chance and scatter alone, about one federation in twenty has such a value.

    Args:
        value: The singular value.
        threshold: What it would have had to exceed.
        noise: The largest one of chance and own scatter, on average.

    >>> near(11.9, threshold=12.0, noise=11.0), near(11.2, threshold=12.0, noise=11.0)
    (True, False)
    """
    return value > max(noise, (noise + threshold) / 2)


def gap(ratio: float, counted: str = "component") -> str:
    """How sure the count is where no further value comes near.

    Args:
        ratio: The last singular value that counts, over the threshold.
        counted: What there may be one fewer of.

    >>> gap(1.2)
    'The gap is visible but not wide.'
    """
    if ratio >= CLEAR:
        return "The gap is clear."
    if ratio >= VISIBLE:
        return "The gap is visible but not wide."
    return f"The gap is narrow. There may be one {counted} fewer."


def is_a_mixture(diagnosis: Diagnosis) -> list[str]:
    """The verdict of the test, and what to do where it is no.

    Args:
        diagnosis: What `diagnosis.json` holds.

    Returns:
        Sentences.
    """
    unfit, n_clients, n_components = unfit_names(diagnosis), len(diagnosis["clients"]), diagnosis["n_components"]
    if not tested(diagnosis):
        left = f"{plural(n_components, 'component')} leave{'s' * (n_components == 1)} nothing over"
        return [f"Nobody can tell: of {plural(n_clients, 'client')} {left} that could speak against it."]
    if not diagnosis["mixture_supported"]:
        nobody = "" if unfit else " No single client stands out."
        is_a = "One model for all is" if n_components == 1 else "The proportions below are"
        return [
            f"No. {chance(diagnosis)}{nobody} {is_a} a summary at best.",
            f"What to do: {', or '.join(advice(diagnosis))}.",
        ]
    allowed = ", once the scatter is allowed for" if diagnosis["n_components"] == 1 and scatters(diagnosis) else ""
    sentences = [f"Nothing speaks against it{allowed}. {chance(diagnosis)}"]
    if unfit:
        verb, whose = ("does", "its") if len(unfit) == 1 else ("do", "their")
        sentences.append(f"But {listed(unfit)} {verb} not fit.")
        sentences.append(f"Look at {whose} rows before you rely on {whose} numbers.")
    return sentences


def chance(diagnosis: Diagnosis) -> str:
    """How often a federation that is as supposed would look as bad, and when the test says no."""
    supposed = "federations of one kind" if diagnosis["n_components"] == 1 else "true mixtures"
    told = f"{frequency(diagnosis['p_value'])} {supposed} would fit as badly, or worse."
    return f"{told[0].upper()}{told[1:]} The test says no where fewer than {frequency(diagnosis['test_size'])} would."


def advice(diagnosis: Diagnosis) -> list[str]:
    """What to do where clients are no mixture."""
    n_clients, n_components, unfit = len(diagnosis["clients"]), diagnosis["n_components"], unfit_names(diagnosis)
    told = ["rely on each client's own predictor, not on proportions (--set method.name=fedavg-ft does without any)"]
    more = n_components + 1 if found(diagnosis) <= n_components else found(diagnosis)
    if FEW_PER_COMPONENT * more <= n_clients:
        told.append(f"test for more components (--set method.n_components={more})")
    if unfit:
        told.append(f"look at the clients that do not fit: {listed(unfit)}")
    return told


def frequency(p_value: float) -> str:
    """A p-value as a share of cases.

    >>> frequency(0.43), frequency(0.004), frequency(0.0)
    ('43 of 100', '4 of 1,000', 'fewer than 1 of 1,000')
    """
    if p_value < 0.001:
        return "fewer than 1 of 1,000"
    return f"{100 * p_value:.0f} of 100" if p_value >= 0.01 else f"{1000 * p_value:.0f} of 1,000"


def how_well(diagnosis: Diagnosis) -> list[str]:
    """How near clients come to the corners, what rows are unmistakable, how wide the intervals are.

    Args:
        diagnosis: What `diagnosis.json` holds.

    Returns:
        Sentences.
    """
    purest, own = diagnosis["purest"], diagnosis["anchor_mass"]
    if diagnosis["n_components"] == 1:
        return [
            "With one component, every proportion is 1.",
            "There is one model for all to train, and each client's own part.",
        ]
    level = f"{100 * diagnosis['interval_level']:.0f} %"
    width = f"The {level} intervals are {diagnosis['interval_width']:.2f} wide on average."
    if few := too_few(diagnosis):
        return [width, f"Of {few}, nothing tells a component from what each client has for itself."]
    sentences = [
        width,
        f"The purest client of each component has {spread(purest)} of its rows from it.",
        f"Words that hardly any other component has make up {spread(own)} of a component's rows.",
    ]
    if diagnosis.get("rows_decide"):  # files of before do not have it
        sentences.append(rows_show(diagnosis["n_components"]))
    unsure = undecided(diagnosis)
    if unsure:
        which, verb = ("mix", "is") if len(unsure) == 1 else ("mixes", "are")
        told = f"The {which} of {listed(unsure)} {verb} undecided: the intervals are wide, and hold equal shares."
        sentences.append(told)
    unseen = [str(k) for k in range(len(purest)) if purest[k] < PURE and own[k] < OWN_WORDS]
    if unseen:
        which = f"component{'s' * (len(unseen) > 1)} {listed(unseen)}"
        which = "any component" if len(unseen) == len(purest) else which
        sentences.append(f"Nothing shows {which} alone. Take the proportions there with care.")
    if not diagnosis["mixture_supported"]:
        sentences.append("All this takes a mixture for granted, which these clients are not.")
    return sentences


def undecided(diagnosis: Diagnosis) -> list[str]:
    """Clients of which hardly anything is known: wide intervals, all of which hold equal shares.

    Args:
        diagnosis: What `diagnosis.json` holds.

    Returns:
        Their names.
    """
    equal = 1 / diagnosis["n_components"]
    names = zip(diagnosis["clients"], diagnosis["proportion_intervals"], strict=True)
    return [
        str(name)
        for name, ends in names
        if all(low <= equal <= high for low, high in ends) and sum(high - low for low, high in ends) >= WIDE * len(ends)
    ]


def spread(shares: list[float]) -> str:
    """One share, or the range of several.

    >>> spread([0.5, 0.91, 0.7])
    '.50 to .91'
    """
    low, high = short_share(min(shares)), short_share(max(shares))
    return low if low == high else f"{low} to {high}"


def unfit_names(diagnosis: Diagnosis) -> list[str]:
    """The clients that do not fit, the worst first."""
    return [str(diagnosis["clients"][i]) for i in worst_first(diagnosis) if i in diagnosis["unfit_clients"]]


def worst_first(diagnosis: Diagnosis) -> list[int]:
    """Clients that do not fit, then the others. Within both, by misfit."""
    unfit, misfits = set(diagnosis["unfit_clients"]), diagnosis["client_misfit"]
    return sorted(range(len(misfits)), key=lambda i: (i not in unfit, -misfits[i]))
