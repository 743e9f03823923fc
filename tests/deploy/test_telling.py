"""What a coordinator is told of a failure: never a limit, a path or a row of the site's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hostile import RUN, Hostile
from local_post import federation_settings, make_sites

from fedgmi.deploy.masks.keys import MaskError
from fedgmi.deploy.site.memory import StateLost
from fedgmi.deploy.site.telling import KINDS, TOLD, disclosable
from fedgmi.errors import FedgmiError, LimitError
from fedgmi.privacy.ledger import BudgetSpent

DOC = Path(__file__).parents[2] / "docs" / "deploy.md"
SECRET = "/home/ward/ledger.json of Ms Smith, 1.5"


def every(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*map(every, kind.__subclasses__()))


def own(kind: type[Exception]) -> bool:
    return kind.__module__.startswith("fedgmi.")


ALL = sorted((kind for kind in every(FedgmiError) if own(kind)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", [*ALL, ValueError, OSError], ids=lambda kind: kind.__name__)
def test_only_what_is_of_the_request_is_told(kind):
    error = kind.__new__(kind)
    Exception.__init__(error, SECRET)
    told = issubclass(kind, TOLD) and not issubclass(kind, LimitError)
    assert (SECRET in disclosable(error)) == told
    assert told or disclosable(error).endswith("; the site's log.txt says more")


def test_the_page_has_every_kind_in_these_words():
    text = " ".join(DOC.read_text(encoding="utf-8").split())
    assert all(f"“{words}”" in text for _, words in KINDS)
    assert "no more than the kind" not in text


@pytest.mark.parametrize("limits", [{"max_runs": 1}, {"max_epsilon": 1.5}, {"max_request_mb": 1e-5}], ids=str)
def test_a_limit_is_told_by_its_kind_alone(tmp_path, limits):
    [site, *_] = make_sites(federation_settings(), tmp_path).values()
    limited = replace(site, settings=site.settings.model_copy(update=limits))
    hostile = Hostile(limited)
    if "max_runs" in limits:
        assert hostile.step("features", 0, {}, run="f" * 16)
    assert not hostile.step("features", 0, {}, run=RUN)
    assert hostile.errors[-1] == "its own limits do not allow it; the site's log.txt says more"
    [name] = limits
    assert name in (site.where / "log.txt").read_text(encoding="utf-8"), "the site's own eyes see which"


def test_what_is_of_the_request_is_told_whole_and_a_spent_budget_is_a_limit():
    assert "is not kept here" in disclosable(StateLost((0, 1)))
    assert "of low order" in disclosable(MaskError("keys of low order"))
    assert disclosable(BudgetSpent("release 2")) == disclosable(LimitError("anything"))
