"""FedAvg and local against their few-line versions."""

from __future__ import annotations

import torch
from torch import Tensor

from federations import gaussian_scenario, make_task, run, transport_for
from fedgmi.data.rows import pack
from fedgmi.data.scenarios.truth import Scenario
from fedgmi.methods import METHODS, Task
from fedgmi.methods.local_training import all_rows, plan
from fedgmi.models import training
from fedgmi.randomness import generator

FEDERATION = gaussian_scenario(10, 60, separation=4.0)


def adam_by_hand(task: Task, scenario: Scenario, client: int, start: Tensor, number: int) -> Tensor:
    """One client's round: torch's own Adam, one batch after another, on the batches that its key draws."""
    rows = pack(scenario.federation.clients, [client])
    jobs, params = plan(task, rows, all_rows(rows)), start.clone().requires_grad_()
    optimiser = torch.optim.Adam([params], lr=task.lr)
    batches, _ = training.draw_batches(jobs, 0, rows, 0, (task.seed, number, "expert"))
    assert rows.y is not None
    for index in batches:
        optimiser.zero_grad()
        task.expert.loss(params[None], rows.x[index][None], rows.y[index][None]).mean().backward()
        optimiser.step()
    return params.detach()


def test_fedavg_is_its_few_line_version():
    uneven = gaussian_scenario(4, 30, size_ratio=9.0)
    task, rounds = make_task(uneven.federation.schema, method="fedavg"), 3
    sizes = [len(client) for client in uneven.federation.clients]
    assert max(sizes) == 9 * min(sizes)
    model = task.expert.init(generator(task.seed, "expert", 0))
    for number in range(1, rounds + 1):
        trained = [adam_by_hand(task, uneven, i, model, number) for i in range(4)]
        model = sum(n * params for n, params in zip(sizes, trained, strict=True)) / sum(sizes)
    server, _, _ = run(METHODS["fedavg"](task), uneven, rounds=rounds)
    torch.testing.assert_close(server["expert"][0], model, atol=2e-5, rtol=1e-4)


def test_local_is_each_client_alone():
    """And alone, FedAvg is the same."""
    task = make_task(FEDERATION.federation.schema, method="local")
    _, states, _ = run(METHODS["local"](task), FEDERATION, rounds=2)
    average = METHODS["fedavg"](make_task(FEDERATION.federation.schema, method="fedavg"))
    for client in (0, 7):
        model = task.expert.init(generator(task.seed, "expert", 0))
        server, transport = average.program.init(), transport_for(average, FEDERATION)
        for number in (1, 2):
            model = adam_by_hand(task, FEDERATION, client, model, number)
            step = average.program.round[0]
            server = step.server(server, transport.exchange(step, server, [client], number), number)
        torch.testing.assert_close(states["expert"][client], model, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(server["expert"][0], model, atol=2e-5, rtol=1e-4)
