"""Whatever the method, the budget, and who is lost: no client ever costs more than the budget."""

from __future__ import annotations

import re

import pytest

from fedgmi.errors import ConfigError
from fedgmi.protocol.ledger import Ledger
from fedgmi.runs import config, experiment
from fedgmi.storage import checkpoint, folder
from tiny import TINY

LEAST = 0.0001


def settings(method, mb, lost, participation):
    common = [line for line in TINY if not line.startswith("method.") or method == "fedgmi"]
    common = [line for line in common if "judge_turns" not in line]  # a plan chooses it
    common += ["method.kmeans_rounds=3", "method.calibration_steps=2"] if method == "fedgmi" else []
    more = [f"communication.mb_per_client={mb}", f"communication.lost={lost}", f"method.participation={participation}"]
    return config.load(None, [f"method.name={method}", *common, "rounds=5", *more])


def smallest(method, lost, participation, folder_of):
    """The budget that a refusal names."""
    with pytest.raises(ConfigError) as caught:
        experiment.run(settings(method, LEAST, lost, participation), folder_of / "refused")
    return float(re.search(r"set it to ([\d.]+)", caught.value.fix).group(1))


CELLS = [("fedavg", lost, share) for lost in (0.0, 0.3) for share in (1.0, 0.5)]
CELLS += [(method, lost, share) for method in ("fedem", "bcfl") for lost, share in ((0.0, 0.5), (0.3, 1.0))]


@pytest.mark.parametrize(("method", "lost", "participation"), [("fedgmi", 0.3, 0.5), *CELLS])
def test_no_budget_is_exceeded_and_a_generous_one_leaves_nobody_out(tmp_path, method, lost, participation):
    least = smallest(method, lost, participation, tmp_path)
    for times in (1.0, 20.0) if method == "fedgmi" else (1.0, 1.2, 20.0):
        mb, out = least * times, tmp_path / f"{times}"
        found = experiment.run(settings(method, mb, lost, participation), out)["budget"]
        kept = checkpoint.load(out / folder.CHECKPOINTS, method, digest=config.load(out / folder.CONFIG).digest())
        most = int(Ledger.from_tree(6, kept.ledger).by_client().sum(1).max())
        assert 0 < most <= mb * 10**6
        if times == 20.0 and not lost:
            assert found["sat_out"] == 0
        if times == 20.0:
            assert found["sat_out"] <= 6  # who is lost at times is asked again
