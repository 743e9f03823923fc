"""Columns without a range: a site whose numbers lie far from all others' is named, and beyond doubt it is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from clinic import MEAN, federation, post_of, settings_of, write_rows, write_site
from hypothesis import given
from hypothesis import strategies as st
from local_post import log_of
from local_post import settings_of as small
from test_bend import saying

from fedgmi.deploy.coordinator.columns import EVIDENCE, far_columns, far_sums
from fedgmi.deploy.coordinator.coordinator import Coordinator
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step


def of_mean(value: float, columns: slice = slice(None)):
    """A site that says some of its columns have this mean."""

    def change(message: Message) -> Message:
        if not {"squares", "sum"} <= message.sums.keys():
            return message
        told = {name: leaf.clone() for name, leaf in message.sums.items()}
        n = told["count"].expand_as(told["sum"])[columns]
        told["sum"][columns], told["squares"][columns] = n * value, n * value * value * 1.0001
        return replace(message, sums=told)

    def once(request, reply):
        first = (request.header.get("round"), request.header.get("number")) == (0, 0)
        return saying(change)(request, reply) if first else reply

    return once


def silent(request, reply):
    """A site that does not answer the first step."""
    return None if (request.header.get("round"), request.header.get("number")) == (0, 0) else reply


def clinics(tmp_path, rows, fault):
    sites = [write_site(tmp_path / f"s{i}", i, federation(rows, wait_s=2, rounds=1)) for i in range(3)]
    for i, site in enumerate(sites):
        write_rows(site.parent, i, 200)
    post = post_of(*sites)
    post.faults = fault
    return Coordinator(settings_of(sites[0]), post, tmp_path / "out", echo=lambda line: None).run()


@pytest.mark.parametrize("rows", ["", MEAN], ids=["indicator", "mean"])
def test_a_column_of_mean_1e9_takes_nobody_along(tmp_path, rows):
    summary = clinics(tmp_path, rows, {"clinic-2": of_mean(1e9)})
    line = next(line for line in log_of(tmp_path).splitlines() if "clinic-2 is absent" in line)
    assert "has mean 1e+09 and deviation 1e+07, and at the median site " in line
    assert "more columns lie as far off" in line
    other = clinics(tmp_path / "silent", rows, {"clinic-2": silent})
    for figure in ("client_accuracy_per_client", "proportions"):
        assert summary[figure] == other[figure]


def test_one_in_another_unit_is_named_and_takes_part(tmp_path):
    summary = clinics(tmp_path, "", {"clinic-2": of_mean(2000.0, slice(1))})
    told = [line for line in log_of(tmp_path).splitlines() if "another unit, or a wrong code?" in line]
    assert len(told) == 1
    assert "round 0: clinic-2: 'age' has mean 2000 and deviation 20" in told[0]
    assert summary["rounds_absent"] == [0, 0, 0]


def test_honest_tables_are_told_nothing_of(tmp_path):
    clinics(tmp_path, "", {})
    assert "another unit" not in log_of(tmp_path)


def sums(*columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of sites' values of one column."""
    first, second = (torch.stack([(x.double() ** power).sum()[None] for x in columns]) for power in (1, 2))
    return torch.tensor([len(x) for x in columns]).double(), first, second


@pytest.mark.parametrize(
    "columns",
    [
        ([60.0] * 9, [60.0] * 9, [61.0] * 9),  # one value at each site
        ([0.0] * 9, [0.0] * 9, [0.0] * 8 + [1.0]),  # a rare event at one
        ([520.1, 520.2], [520.3, 520.2], [90.1, 90.3]),  # much the same within sites
    ],
    ids=["constant", "rare", "places"],
)
def test_what_is_not_beyond_doubt_leaves_nobody_out(columns):
    found = far_columns(*sums(*map(torch.tensor, columns)), ("x",))
    assert not any(far.wild for far in found.values())


def test_a_code_for_missing_values_is_named_by_its_column():
    """-9999 for all of a site's values."""
    columns = [torch.randn(30, generator=torch.Generator().manual_seed(i)) * 10 + 60 for i in range(4)]
    found = far_columns(*sums(*columns, torch.full((30,), -9999.0)), ("age",))
    assert list(found) == [4]
    assert "'age' has mean -9999 and deviation 0" in found[4].words


def test_fewer_than_three_sites_or_other_steps_say_nothing():
    far = [Message(sums={"squares": torch.tensor([v]), "count": torch.tensor(1.0)}) for v in (1.0, 1.0, 1e9)]
    program = small(judges="density", judge_turns=8).setup().method().program
    assert any(step.name == EVIDENCE for step in program.all_steps)
    step = Step(EVIDENCE, lambda *given: given[:2])
    assert list(far_sums(step, far, ())) == [2]
    assert not far_sums(step, far[1:], ())
    assert not far_sums(replace(step, name="another"), far, ())


@given(st.integers(0, 10**6), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(3, 8))
def test_sites_of_one_kind_are_never_far(seed, at, width, n):
    draws = torch.Generator().manual_seed(seed)
    columns = [torch.randn(50, generator=draws).double() * width + at for _ in range(n)]
    assert not far_columns(*sums(*columns), ("x",))


@given(st.integers(0, 10**6), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(3, 8))
def test_one_liar_is_found_and_no_other_site_is(seed, at, width, n):
    at *= width
    draws = torch.Generator().manual_seed(seed)
    columns = [torch.randn(50, generator=draws).double() * width + at for _ in range(n)]
    liar = seed % n
    columns[liar] = columns[liar] * 1e6 + 1e3 * abs(at) * (1 if seed % 2 else -1) + 1e7
    found = far_columns(*sums(*columns), ("x",))
    assert {i for i, far in found.items() if far.wild} == {liar}
    assert list(found) == [liar]
