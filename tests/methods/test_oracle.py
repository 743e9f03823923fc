"""The oracle: it needs the truth, and predicts with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from federations import gaussian_scenario, make_task, run, transport_for, without_labels
from fedgmi.data.rows import pack
from fedgmi.methods import BOUNDS
from fedgmi.protocol.step import select

FEDERATION = gaussian_scenario(10, 60, separation=4.0)


def test_the_oracle_refuses_rows_without_truth():
    method = BOUNDS["oracle"](make_task(FEDERATION.federation.schema, method="oracle"))
    blind = transport_for(replace(method, name="fedgmi"), FEDERATION)
    with pytest.raises(ValueError, match="true component"):
        run(method, FEDERATION, rounds=1, transport=blind)
    [step], server = method.program.round, method.program.init()
    rows = pack(FEDERATION.federation.clients, [0])
    with pytest.raises(ValueError, match="true component"):
        step.client(select(server, step.reads), method.program.client_init((0,)), rows, 1)


def test_the_oracle_predicts_with_the_realised_proportions():
    method = BOUNDS["oracle"](make_task(FEDERATION.federation.schema, method="oracle"))
    _, states, _ = run(method, FEDERATION, rounds=1)
    assert FEDERATION.truth is not None
    torch.testing.assert_close(states["realised"], FEDERATION.truth.proportions())


def test_the_oracle_gates_by_the_realised_proportions():
    method = BOUNDS["oracle"](make_task(FEDERATION.federation.schema, method="oracle"))
    server, states, _ = run(method, FEDERATION)
    rows = pack(FEDERATION.federation.held_out)
    found = method.predictor.predict(server, states, rows)
    flipped = {name: states[name].flip(1) for name in ("proportions", "realised")}
    assert torch.equal(method.predictor.predict(server, states | {"proportions": flipped["proportions"]}, rows), found)
    assert not torch.allclose(method.predictor.predict(server, states | {"realised": flipped["realised"]}, rows), found)


@pytest.mark.parametrize("labels", [True, False])
def test_the_oracle_judges_in_closed_form_by_the_truth(labels):
    scenario = FEDERATION if labels else without_labels(FEDERATION)
    task = make_task(scenario.federation.schema, method="oracle", judges="closed", judge_turns=1)
    server, _, _ = run(BOUNDS["oracle"](task), scenario, rounds=1)
    assert scenario.truth is not None
    true = torch.cat(scenario.truth.components).bincount(minlength=3).double()
    torch.testing.assert_close(server["judges/sums"][:, :, 0].sum(1).double(), true, rtol=1e-6, atol=1e-6)
