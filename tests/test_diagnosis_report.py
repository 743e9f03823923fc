"""What a diagnosis says, in words, in a table and in a picture, from hand-made numbers."""

from __future__ import annotations

import html
import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedgmi.report import diagnosis_picture, diagnosis_tables, diagnosis_words
from fedgmi.report.diagnosis_picture import moved
from summaries import make_diagnosis

UNFIT = {"unfit_clients": [1, 4], "client_misfit": [1.0, 3.0, 1.0, 1.0, 5.0, 1.0]}
REFUSED = {"mixture_supported": False, "speaks_against": "direction", "p_value": 1e-9, **UNFIT}


def printed(diagnosis: dict[str, Any], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    diagnosis_tables.print_diagnosis(diagnosis, Path("runs/here"), console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def said(diagnosis: dict[str, Any]) -> str:
    """All answers, whatever the lines are broken into."""
    return " ".join(sentence for part in diagnosis_words.answers(diagnosis).values() for sentence in part)


def test_number_of_components_comes_with_what_it_explains_and_its_gap():
    told = said(make_diagnosis(true_n_components=3))
    assert told.startswith("3 components explain 84 % (79 to 88 %) of what differs between these clients. ")
    assert "2 singular values (60.0 and 59.0) stand above what chance and own scatter can make (12.0). " in told
    assert "The next one (11.0) does not. The gap is clear. The scenario was made of 3." in told


@pytest.mark.parametrize(
    ("value", "words"),
    [(12.1, "narrow. There may be one component fewer"), (14.0, "visible but not wide"), (16.0, "clear")],
)
def test_gap_in_words(value, words):
    told = said(make_diagnosis(2, singular_values=[value, 11.0]))
    assert f"1 singular value ({value:.1f}) stands above" in told
    assert f"The gap is {words}." in told


def test_clients_that_are_alike():
    told = said(make_diagnosis(1, own_scatter=1.0, own_scatter_interval=[1.0, 1.1]))
    assert told.startswith("One component. All clients look alike. No singular value (11.0) is above what chance and")
    assert "With one component, every proportion is 1. There is one model for all to train, and each client's" in told
    assert "own: counts vary" not in told


def test_one_component_and_clients_that_scatter_on_their_own():
    told = said(make_diagnosis(1))
    assert told.startswith(
        "One component; each client scatters on its own. Its counts of each kind of row vary 1.3 (1.2 to 1.4) times"
    )
    assert "alike" not in told
    assert "Nothing speaks against it, once the scatter is allowed for. 43 of 100 federations of one kind" in told
    assert list(diagnosis_words.answers(make_diagnosis(1)))[1] == "Is every client of one kind?"


def test_one_component_is_no_excuse_for_what_has_a_shape():
    told = said(make_diagnosis(1, n_components_estimated=False, **REFUSED))
    assert told.startswith(
        "One component, as you asked, does not describe these clients: what they differ in is not shapeless. Taken for "
        "own scatter, it makes counts"
    )
    assert "a summary at best" in told
    assert "proportions below" not in told
    assert "not shapeless, though no direction stands out alone." in said(make_diagnosis(1, **REFUSED))


def test_large_scatter_has_no_decimal_places():
    told = said(make_diagnosis(1, own_scatter=1455.9, own_scatter_interval=[1056.5, 2326.5]))
    assert "vary 1,456 (1,056 to 2,326) times as much" in told


@pytest.mark.parametrize(
    ("against", "why"),
    [
        ("direction", "the rest is not shapeless"),
        ("roundness", "the rest is not shapeless"),
        ("simplex", "but these clients do not lie between any 6 distributions"),
    ],
)
def test_what_is_no_mixture_of_k_has_k_less_one_directions(against, why):
    found = REFUSED | {"explained": 0.56, "explained_interval": [0.46, 0.64], "speaks_against": against}
    told = said(make_diagnosis(6, **found))
    assert told.startswith("5 directions explain 56 % (46 to 64 %) of what differs between these clients; ")
    assert f"; {why}: no mixture of 6 components. Taken for own scatter, the rest makes counts of" in told
    assert "5 singular values" in told
    assert "client's own:" not in told  # what has a shape is not known to be scatter


def test_two_components_are_one_direction():
    assert said(make_diagnosis(2, **REFUSED)).startswith("1 direction explains 84 % (79 to 88 %) of what differs")


def test_a_narrow_gap_of_no_mixture_is_of_directions():
    assert "There may be one direction fewer." in said(make_diagnosis(2, singular_values=[12.1, 11.0], **REFUSED))


def test_components_of_clients_that_do_not_differ():
    told = said(make_diagnosis(explained=None, explained_interval=None, own_scatter=1.0, own_scatter_interval=[1, 1]))
    assert told.startswith("3 components, but these clients differ no more than by chance.")


def test_what_was_asked_for_is_told_apart():
    assert "3 components, as you asked, explain 84 %" in said(make_diagnosis(n_components_estimated=False))


@pytest.mark.parametrize(
    ("p_value", "words"),
    [(0.43, "43 of 100"), (0.012, "1 of 100"), (0.004, "4 of 1,000"), (1e-114, "fewer than 1 of 1,000")],
)
def test_p_value_in_words(p_value, words):
    assert f". {words[0].upper()}{words[1:]} true mixtures would fit as badly, or worse." in said(
        make_diagnosis(p_value=p_value)
    )


def test_the_test_says_when_it_says_no():
    """2 of 100 speak against nothing where it takes fewer than 1 of 100."""
    told = said(make_diagnosis(p_value=0.024))
    assert "Nothing speaks against it. 2 of 100 true mixtures" in told
    assert "The test says no where fewer than 1 of 100 would." in told
    assert "fewer than 5 of 100 would" in said(make_diagnosis(test_size=0.05))


def test_clients_of_which_nothing_is_known_are_named():
    wide, narrow = [[0.0, 0.9]] * 3, [[0.3, 0.4]] * 3
    found = make_diagnosis(n_clients=4)
    told = said(found | {"proportion_intervals": [wide, narrow, *found["proportion_intervals"][2:]]})
    assert "The mix of client-0 is undecided" in told
    assert "undecided" not in said(found)


def test_mixture_that_holds_is_not_proven():
    assert "Nothing speaks against it. 43 of 100" in said(make_diagnosis())


def test_mixture_that_does_not_hold_comes_with_advice():
    told = said(make_diagnosis(n_clients=12, **REFUSED | {"client_misfit": [1.0, 3.0, 1.0, 1.0, 5.0, *[1.0] * 7]}))
    assert "No. Fewer than 1 of 1,000 true mixtures" in told
    assert "a summary at best" in told
    assert told.endswith("All this takes a mixture for granted, which these clients are not.")
    assert "for granted" not in said(make_diagnosis())
    assert "No single client stands out." in said(make_diagnosis(mixture_supported=False))
    assert "rely on each client's own predictor, not on proportions (--set method.name=fedavg-ft " in told
    assert "--set method.n_components=4" in told
    assert "look at the clients that do not fit: client-4 and client-1." in told


def test_as_many_components_as_the_data_show_are_advised_unless_clients_are_few():
    """With fewer than three clients a component, any federation looks like a mixture."""
    shown = {"singular_values": [60.0, 50.0, 40.0, 30.0, 9.0], "mixture_supported": False}
    assert "(--set method.n_components=5)" in said(make_diagnosis(3, n_clients=15, **shown))
    assert "method.n_components=" not in said(make_diagnosis(3, n_clients=14, **shown))


@pytest.mark.parametrize(
    ("unfit", "words"), [([4], "But client-4 does not fit. Look at its"), ([1, 4], "But client-4 and client-1 do not")]
)
def test_single_clients_that_do_not_fit_are_named_the_worst_first(unfit, words):
    assert words in said(make_diagnosis(**UNFIT | {"unfit_clients": unfit}))


def test_how_well_proportions_are_known():
    told = said(make_diagnosis(purest=[0.95, 0.6, 0.7], anchor_mass=[0.0, 0.02, 0.3]))
    assert "The 90 % intervals are 0.10 wide on average." in told
    assert "The purest client of each component has .60 to .95 of its rows from it." in told
    assert "Words that hardly any other component has make up .00 to .30 of a component's rows." in told
    assert "Nothing shows component 1 alone" in told
    assert "Nothing shows any component alone" in said(make_diagnosis(purest=[0.5] * 3, anchor_mass=[0.0] * 3))
    assert "Nothing shows" not in said(make_diagnosis())


def test_every_client_has_a_row_the_worst_first():
    rows = re.findall(r"^(client-\d) .*(yes|no)$", printed(make_diagnosis(**UNFIT)), re.MULTILINE)
    assert [name for name, _ in rows] == ["client-4", "client-1", "client-0", "client-2", "client-3", "client-5"]
    assert [fits for _, fits in rows] == ["no", "no", *["yes"] * 4]


@pytest.mark.parametrize(
    ("n_components", "cell"),
    [
        (2, ".80 (.74-.84)  .20 (.14-.24)"),
        (3, ".80 (.74-.84)  .10 (.04-.14)"),
        (5, ".80 .05 .05 .05 .05           .05    1.00"),  # and half of the widest interval
        (12, ".80 of 0, .02 of 1, .02 of 2           .05    1.00"),
    ],
)
def test_proportions_and_intervals_fit_into_80_columns(n_components, cell):
    shown = printed(make_diagnosis(n_components, warnings=["Few rows."]))
    assert cell in shown
    assert "…" not in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    assert "Beware: Few rows." in shown


def test_many_clients_are_shortened():
    shown = printed(make_diagnosis(n_clients=50))
    assert len(re.findall(r"client-\d+", shown)) == diagnosis_tables.MOST_CLIENTS
    assert "30 more clients in diagnosis.json" in shown


def test_names_in_brackets_are_shown_as_they_are():
    assert "[ward]" in printed(make_diagnosis(clients=["[ward]", *"abcde"]))


def test_cost_and_place_stand_at_the_end():
    shown = " ".join(printed(make_diagnosis(proportion_tv=0.046)).split())
    assert "Diagnosis of rotation: seed 3, 6 clients, 3,000 rows, 573.0 kB down, 1.3 MB up, 2 s." in shown
    assert "Proportion error (TV): 0.046." in shown
    assert shown.endswith("Results: runs/here (picture: diagnosis.html)")


@pytest.mark.parametrize("n_components", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("changes", [{}, REFUSED], ids=["supported", "refused"])
def test_picture_is_one_self_contained_page(tmp_path, n_components, changes):
    diagnosis_picture.write_diagnosis_picture(make_diagnosis(n_components, **changes), tmp_path / "diagnosis.html")
    page = (tmp_path / "diagnosis.html").read_text(encoding="utf-8")
    assert "client-5" in page
    assert ("not a mixture of them (" in html.unescape(page)) == bool(changes)
    assert ("% explained, p" in html.unescape(page)) == (n_components > 1)
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)


def traces(diagnosis: dict[str, Any], name: str) -> list[Any]:
    return [trace for trace in diagnosis_picture.figure(diagnosis).data if trace.name == name]


def test_title_gives_the_verdict():
    titles = [
        diagnosis_picture.figure(make_diagnosis(**changes)).layout.title.text
        for changes in ({}, UNFIT, {"mixture_supported": False})
    ]
    assert "3 components, nothing speaks against a mixture (84 % explained, p = 0.43)" in titles[0]
    assert "nothing speaks against a mixture but 2 clients (" in titles[1]
    assert "not a mixture of them (" in titles[2]


def test_singular_values_that_count_are_filled():
    [found] = traces(make_diagnosis(singular_values=[60.0, 59.0, 11.0, 1e-9]), "these clients")
    assert list(found.y) == [60.0, 59.0, 11.0]  # a direction that clients cannot differ in is not shown
    assert [colour != "white" for colour in found.marker.color] == [True, True, False]


def test_clients_in_the_triangle_and_those_that_do_not_fit_apart():
    diagnosis = make_diagnosis(**UNFIT)
    [fits], [unfit] = traces(diagnosis, "fits"), traces(diagnosis, "does not fit")
    assert [len(fits.a), len(unfit.a)] == [4, 2]
    assert list(zip(unfit.a, unfit.b, unfit.c, strict=True)) == [tuple(diagnosis["proportions"][i]) for i in (1, 4)]
    assert "<b>client-4</b>" in unfit.text[1]
    assert "component 1: .80 (.74-.84)" in unfit.text[1]


def test_clients_in_columns_with_their_intervals():
    diagnosis = make_diagnosis(5)
    [points] = traces(diagnosis, "fits")
    assert len(points.x) == 5 * 6
    shares = [share for row in diagnosis["proportions"] for share in row]
    width = diagnosis_picture.COLUMN
    assert list(points.x) == pytest.approx([i % 5 + width * share for i, share in enumerate(shares)])
    ends = [high for row in diagnosis["proportion_intervals"] for _, high in row]
    assert list(points.error_x.array) == pytest.approx(
        [width * (high - share) for high, share in zip(ends, shares, strict=True)]
    )


def test_two_components_need_one_column_and_one_shows_the_misfit():
    [points] = traces(make_diagnosis(2), "fits")
    assert len(points.x) == 6
    [points] = traces(make_diagnosis(1), "fits")
    assert list(points.x) == make_diagnosis(1)["client_misfit"]


@given(
    shares=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5),
    share=st.floats(0.0, 1.0),
    component=st.integers(0, 1),
)
def test_arms_stay_in_the_simplex(shares, share, component):
    client = [value / sum(shares) for value in shares]
    there = moved(client, component, share)
    assert sum(there) == pytest.approx(1.0)
    assert there[component] == share
    assert min(there) >= 0
    assert moved(there, component, client[component]) == pytest.approx(client) or share > 0.99


def test_a_pure_client_has_arms_too():
    assert moved([1.0, 0.0, 0.0], 0, 0.8) == pytest.approx([0.8, 0.1, 0.1])
