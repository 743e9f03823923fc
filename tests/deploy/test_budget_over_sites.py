"""A budget holds over sites as it does in simulation."""

from __future__ import annotations

import pytest
from test_coded_sites import deployed, kept_of, settings_with

from fedgmi.deploy.site.memory import Memory
from fedgmi.errors import ConfigError
from fedgmi.protocol.ledger import Ledger
from fedgmi.storage import folder


@pytest.mark.parametrize(("name", "mb"), [("fedavg", 0.004), ("fedgmi", 0.08)])
def test_no_site_costs_more_than_the_budget(tmp_path, name, mb):
    settings = settings_with(name, {"mb_per_client": mb})
    summary, _ = deployed(settings, tmp_path)
    most = int(Ledger.from_tree(6, kept_of(tmp_path, settings).ledger).by_client().sum(1).max())
    assert 0 < most <= mb * 10**6
    assert summary["budget"]["most_mb"] == pytest.approx(most / 10**6)
    assert summary["budget"]["settings"]["communication.precision"] != "float32"
    assert f"Budget of {name}" in (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    assert all(line["sat_out"] == 0 for line in folder.read_records(tmp_path / "out"))
    [run] = (tmp_path / "sites" / "client-03" / "runs").iterdir()
    assert Memory(run).plan() == summary["budget"]["settings"]


@pytest.mark.parametrize("chosen", [{"training.lr": 1.0}, ["communication.top"], {"communication.precision": "4"}])
def test_a_site_takes_no_plan_for_anything_else(chosen):
    limited = {} if chosen == {"communication.precision": "4"} else {"mb_per_client": 1.0}
    with pytest.raises(ConfigError, match="the coordinator's plan would change other settings"):
        settings_with("fedavg", limited).planned(chosen)
