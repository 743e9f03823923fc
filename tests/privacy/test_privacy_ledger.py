"""A site's ledger: what is paid once is paid for good, and nothing goes over a limit."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedgmi.errors import UserError
from fedgmi.privacy.ledger import BudgetSpent, PrivacyLedger, Release


def test_releases_add_up_and_outlive_the_process(tmp_path: Path) -> None:
    PrivacyLedger(tmp_path / "ledger.json", data="a").charge("one", 1.0, 0.0, "histogram")
    again = PrivacyLedger(tmp_path / "ledger.json", data="b")
    again.charge("two", 0.5, 1e-6, "histogram")
    assert again.spent() == (1.5, 1e-6)
    assert again.spent("a") == (1.0, 0.0)
    assert [(one.key, one.data) for one in again.releases()] == [("one", "a"), ("two", "b")]


def test_the_same_release_again_is_free_even_when_nothing_is_left(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.json", max_epsilon=1.0, max_releases=1)
    for _ in range(3):
        ledger.charge("one", 1.0, 0.0, "histogram")
    assert len(ledger.releases()) == 1
    assert ledger.n_refused() == 0


@pytest.mark.parametrize(("limits", "said"), [((1.5, None), "max_epsilon is 1.5"), ((None, 1), "max_releases is 1")])
def test_a_release_over_a_limit_is_refused_and_the_refusal_is_kept(
    tmp_path: Path, limits: tuple[float | None, int | None], said: str
) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.json", *limits)
    ledger.charge("one", 1.0, 0.0, "histogram")
    for n in range(2):
        with pytest.raises(BudgetSpent, match=said):
            ledger.charge(f"other {n}", 1.0, 0.0, "another histogram")
    assert ledger.spent() == (1.0, 0.0)
    assert ledger.n_refused() == 2
    assert all(said in line["why"] and line["what"] == "another histogram" for line in ledger.refusals())


def test_exactly_the_budget_may_be_spent(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.json", max_epsilon=0.3)
    for n in range(3):
        ledger.charge(str(n), 0.1, 0.0, "histogram")
    with pytest.raises(BudgetSpent):
        ledger.charge("3", 1e-3, 0.0, "histogram")


def test_an_accountant_of_ones_own_decides(tmp_path: Path) -> None:
    def largest(releases: list[Release]) -> tuple[float, float]:
        return max((float(one.about["sigma"]) for one in releases), default=0.0), 0.0

    ledger = PrivacyLedger(tmp_path / "ledger.json", max_epsilon=2.0, compose=largest)  # type: ignore[arg-type]
    for n in range(5):
        ledger.charge(str(n), 9.0, 0.0, "an update", {"sigma": 1.0})
    assert ledger.spent() == (1.0, 0.0)
    with pytest.raises(BudgetSpent):
        ledger.charge("more", 9.0, 0.0, "an update", {"sigma": 3.0})


@pytest.mark.parametrize(("epsilon", "delta"), [(-1.0, 0.0), (float("nan"), 0.0), (float("inf"), 0.0), (1.0, 2.0)])
def test_what_is_no_epsilon_is_not_entered(tmp_path: Path, epsilon: float, delta: float) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.json")
    with pytest.raises(ValueError, match="ε"):
        ledger.charge("one", epsilon, delta, "histogram")
    assert not ledger.releases()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"releases": [{"key": 1}], "refusals": [], "refused": 0}', "[" * 100_000]
)
def test_a_damaged_ledger_stops_releases(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"ledger\.json.*backup"):
        PrivacyLedger(path).charge("one", 1.0, 0.0, "histogram")


@pytest.mark.parametrize("missing", ["noise_multiplier", "count_epsilon", "counts"])
def test_a_run_whose_noise_nobody_can_tell_damages_the_ledger(tmp_path: Path, missing: str) -> None:
    about = {"mechanism": "gaussian and geometric", "noise_multiplier": 2.0, "count_epsilon": 0.4, "counts": 2.0}
    ledger = PrivacyLedger(tmp_path / "ledger.json")
    ledger.charge("one", 1.0, 1e-3, "a run", about)
    assert ledger.releases()[0].about == about
    found = json.loads(ledger.path.read_text())
    found["releases"][0]["about"][missing] = 0.0
    ledger.path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=f"its {missing} is no number above 0"):
        ledger.spent()


def test_what_a_release_more_would_pass_is_told_and_not_entered(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "ledger.json", max_epsilon=1.5)
    ledger.charge("one", 1.0, 0.0, "histogram")
    assert ledger.hinders(0.5, 0.0, {}) == ""
    assert ledger.hinders(0.6, 0.0, {}) == "ε = 1.6 in all, and max_epsilon is 1.5"
    assert (len(ledger.releases()), ledger.n_refused()) == (1, 0)


def test_two_at_once_never_go_over_the_limit(tmp_path: Path) -> None:
    def charge(n: int) -> bool:
        try:
            PrivacyLedger(tmp_path / "ledger.json", max_releases=5).charge(str(n), 1.0, 0.0, "histogram")
        except BudgetSpent:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(charge, range(12))) == 5
    found = json.loads((tmp_path / "ledger.json").read_text())
    assert len(found["releases"]) == 5
    assert found["refused"] == 7
