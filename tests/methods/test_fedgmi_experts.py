"""fedgmi's experts: heads on one trunk against one client after another."""

from __future__ import annotations

import torch
from torch import Tensor

from federations import gaussian_scenario, make_task
from fedgmi.data.rows import pack
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.methods import Task
from fedgmi.methods.fedgmi.experts import MU, average_experts, train_experts
from fedgmi.methods.local_training import all_rows, plan
from fedgmi.models import training
from fedgmi.protocol.message import Message

FEDERATION = gaussian_scenario(10, 60, separation=4.0)


def literal_heads(task: Task, scenario: Scenario, experts: Tensor, resp: Tensor) -> Tensor:
    """Client after client, module by module: one step of Adam after another on Σ_k r_k·CE_k, then the two means."""
    trunk, rows = task.expert.trunk, pack(scenario.federation.clients)
    totals, mass = torch.zeros_like(experts, dtype=torch.float64), torch.zeros(len(experts), dtype=torch.float64)
    jobs = plan(task, rows, all_rows(rows))
    for i in range(rows.n_clients):
        lower = experts[0, :trunk].clone().requires_grad_()
        upper = [expert[trunk:].clone().requires_grad_() for expert in experts]
        optimiser = torch.optim.Adam([lower, *upper], lr=task.lr)
        place = int((jobs.client == i).nonzero())
        drawn, _ = training.draw_batches(jobs, place, rows, 0, (task.seed, 1, "expert"))
        for index in drawn:
            assert rows.y is not None
            optimiser.zero_grad()
            value = torch.zeros(())
            for k, head in enumerate(upper):
                losses = task.expert.loss(torch.cat([lower, head])[None], rows.x[index][None], rows.y[index][None])[0]
                value = value + (resp[index, k].float() * losses).mean()
                value = value + MU / 2 * (head - experts[k, trunk:]).square().sum()
            value = value + MU / 2 * (lower - experts[0, :trunk]).square().sum()
            value.backward()
            optimiser.step()
        own = resp[rows.client_index == i].sum(0)
        totals[:, :trunk] += rows.counts[i] * lower.detach()
        totals[:, trunk:] += own[:, None] * torch.stack(upper).detach()
        mass += own
    return torch.cat([totals[:, :trunk] / rows.counts.sum(), totals[:, trunk:] / mass[:, None]], 1).float()


def test_heads_on_a_trunk_against_one_client_after_another():
    task = make_task(FEDERATION.federation.schema)
    rows = pack(FEDERATION.federation.clients)
    draws = torch.Generator().manual_seed(0)
    resp = torch.rand(len(rows), 3, generator=draws, dtype=torch.float64)
    resp /= resp.sum(1, keepdim=True)
    experts = torch.stack([task.expert.init(torch.Generator().manual_seed(k)) for k in range(3)])
    experts[:, : task.expert.trunk] = experts[0, : task.expert.trunk]
    models = train_experts(task, experts, rows, resp, 1, shared_trunk=True)
    found = average_experts(task, experts, Message(models))
    torch.testing.assert_close(found, literal_heads(task, FEDERATION, experts, resp), atol=1e-5, rtol=1e-4)
    assert bool(models["trunk"].holders.all())
    assert bool(models["head"].holders.all())


def test_experts_that_nobody_trains_stay_as_they_were():
    task = make_task(FEDERATION.federation.schema)
    experts = torch.randn(3, task.expert.size, generator=torch.Generator().manual_seed(0))
    experts[:, : task.expert.trunk] = experts[0, : task.expert.trunk]
    assert torch.equal(average_experts(task, experts, Message()), experts)
