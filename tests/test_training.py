"""Packed training: equal to a loop over jobs, and blind to whatever else is packed with a job."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgmi.data.rows import Client, Rows, pack
from fedgmi.models.flat import Layout, linear
from fedgmi.models.memory import WorkingMemory
from fedgmi.models.stragglers import parts_done
from fedgmi.models.training import Batch, Jobs, Objective, Pull, draw_batches, fit, plan_jobs, resample, shortened
from fedgmi.settings.run import TrainingSettings

LAYOUT = Layout({"w1": (5, 6), "b1": (6,), "w2": (6, 3), "b2": (3,)})
SETTINGS = TrainingSettings(batch_size=4)
KEY = (0, 1, "test")


def loss(params: torch.Tensor, batch: Batch) -> torch.Tensor:
    part = LAYOUT.split(params)
    hidden = linear(batch.x + 0.1 * batch.noise, part["w1"], part["b1"]).tanh()
    logits = linear(hidden, part["w2"], part["b2"])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.y.flatten(), reduction="none").view_as(batch.y)


def make_rows(counts: list[int], ids: list[int] | None = None) -> Rows:
    """Clients whose data depend on their id alone."""
    ids = list(range(len(counts))) if ids is None else ids
    clients = {}
    for client, n in zip(ids, counts, strict=True):
        draw = torch.Generator().manual_seed(client)
        clients[client] = Client(str(client), torch.randn(n, 5, generator=draw), torch.randint(3, (n,), generator=draw))
    rows = pack(list(clients.values()))
    return dataclasses.replace(rows, ids=tuple(ids))


def plan(rows: Rows, weights: torch.Tensor, epochs: int = 3) -> Jobs:
    return plan_jobs(weights, rows.client_index, epochs=epochs, batch_size=SETTINGS.batch_size)


def train(rows: Rows, jobs: Jobs, start: torch.Tensor, **options) -> torch.Tensor:
    return fit(Objective(loss), start, jobs, rows, settings=SETTINGS, lr=0.01, key=KEY, noise_size=5, **options)


def starts(jobs: Jobs) -> torch.Tensor:
    """A start for every job that depends on its component alone."""
    shared = 0.3 * torch.randn(8, LAYOUT.size, generator=torch.Generator().manual_seed(5))
    return shared[jobs.component]


def soft_weights(rows: Rows, n_components: int = 2) -> torch.Tensor:
    """Responsibilities that depend on a row's values alone."""
    return (3 * rows.x[:, :n_components]).softmax(1)


def loop(rows: Rows, jobs: Jobs, start: torch.Tensor, strength: float = 0.0) -> torch.Tensor:
    """The slow, literal reference: one torch.optim.Adam after another, on the same batches."""
    trained = []
    for job in range(len(jobs)):
        params = start[job].clone().requires_grad_()
        optimiser = torch.optim.Adam([params], lr=0.01)
        index, noise = draw_batches(jobs, job, rows, 5, KEY)
        for step in range(int(jobs.steps[job])):
            batch = Batch(index[step][None], rows.x[index[step]][None], rows.y[index[step]][None], noise[step][None])
            optimiser.zero_grad()
            value = loss(params[None], batch).mean() + 0.5 * strength * (params - start[job]).square().sum()
            value.backward()
            optimiser.step()
        trained.append(params.detach())
    return torch.stack(trained)


@pytest.mark.parametrize("strength", [0.0, 2.0])
def test_equals_a_loop_of_adam_over_jobs_of_very_different_size(strength):
    rows = make_rows([2, 200, 9, 31])
    jobs = plan(rows, soft_weights(rows))
    assert int(jobs.steps.max()) >= 50 * int(jobs.steps.min())
    start = starts(jobs)
    packed = train(rows, jobs, start, pull=Pull(strength, start, torch.arange(len(jobs))) if strength else None)
    torch.testing.assert_close(packed, loop(rows, jobs, start, strength), atol=2e-5, rtol=1e-4)
    assert float((packed - start).abs().max()) > 0.05


def test_plan_keeps_pairs_with_mass_and_drops_negligible_rows():
    client_index = torch.tensor([0, 0, 0, 1, 1])
    weights = torch.tensor([[1.0, 0, 0], [0.995, 0.005, 0], [0.4, 0.6, 0], [0, 0.01, 0.99], [0, 0, 1.0]])
    jobs = plan_jobs(weights, client_index, epochs=2, batch_size=2)
    assert list(zip(jobs.client.tolist(), jobs.component.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 2)]
    assert jobs.row.tolist() == [0, 1, 2, 2, 3, 4]
    assert jobs.start.tolist() == [0, 3, 4, 6]
    assert jobs.mass.tolist() == pytest.approx([2.395, 0.6, 1.99])
    assert jobs.steps.tolist() == [3, 1, 2]
    assert plan_jobs(weights, client_index, epochs=2, batch_size=2, max_steps=2).steps.tolist() == [2, 1, 2]


def test_nothing_to_train_is_nothing_trained():
    rows = make_rows([3])
    jobs = plan(rows, torch.zeros(3, 2))
    assert len(jobs) == 0
    assert train(rows, jobs, torch.zeros(0, LAYOUT.size)).shape == (0, LAYOUT.size)


def test_the_start_is_left_as_it_was():
    rows = make_rows([8])
    jobs = plan(rows, torch.ones(8, 1))
    start = starts(jobs)
    kept = start.clone()
    train(rows, jobs, start)
    assert torch.equal(start, kept)


def test_same_key_same_bits_and_another_key_others():
    rows = make_rows([10, 20])
    jobs = plan(rows, soft_weights(rows))
    first = train(rows, jobs, starts(jobs))
    assert torch.equal(first, train(rows, jobs, starts(jobs)))
    other = fit(Objective(loss), starts(jobs), jobs, rows, settings=SETTINGS, lr=0.01, key=(0, 2, "test"), noise_size=5)
    assert not torch.equal(first, other)


def test_other_clients_change_nothing_for_a_client():
    everyone, alone = make_rows([40, 12, 300], [3, 4, 7]), make_rows([12], [4])
    jobs, own = plan(everyone, soft_weights(everyone)), plan(alone, soft_weights(alone))
    together = train(everyone, jobs, starts(jobs))[jobs.client == 1]
    torch.testing.assert_close(train(alone, own, starts(own)), together, atol=1e-5, rtol=1e-4)


def test_chunking_changes_nothing():
    rows = make_rows([5, 60, 17, 8])
    jobs = plan(rows, soft_weights(rows))
    whole = train(rows, jobs, starts(jobs))
    torch.testing.assert_close(train(rows, jobs, starts(jobs), memory=WorkingMemory(1)), whole, atol=1e-5, rtol=1e-4)


def test_a_finished_job_is_touched_by_nothing():
    """One step of a short job next to a long one equals that step alone, in spite of Adam's momentum."""
    rows = make_rows([1, 100])
    jobs = plan(rows, torch.ones(101, 1), epochs=1)
    assert jobs.steps.tolist() == [1, 25]
    start = starts(jobs)
    moved = (train(rows, jobs, start) - start)[0].abs()
    assert float(moved.max()) <= 0.01 * 1.001  # Adam's first step is at most the learning rate


def test_one_heavy_row_is_the_row_that_is_drawn():
    rows = make_rows([50])
    weights = torch.zeros(50, 1)
    weights[17] = 1.0
    index, _ = draw_batches(plan(rows, weights), 0, rows, 0, KEY)
    assert index.unique().tolist() == [17]


def test_equal_weights_give_every_row_once_an_epoch():
    drawn = resample(torch.ones(13), 5 * 13, torch.Generator().manual_seed(0)).view(5, 13)
    assert torch.equal(drawn.sort(1).values, torch.arange(13).expand(5, 13))
    assert not torch.equal(drawn[0], drawn[1])


def test_rows_are_drawn_in_proportion_to_their_weights():
    weights = torch.rand(40, generator=torch.Generator().manual_seed(1)).double()
    drawn = resample(weights, 40_000, torch.Generator().manual_seed(2))
    share = drawn.bincount(minlength=40).double() / 40_000
    torch.testing.assert_close(share, weights / weights.sum(), atol=1.5e-3, rtol=0.05)


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=30),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_an_epoch_draws_each_row_as_often_as_its_share_rounded_up_or_down(weights, epochs, seed):
    weight = torch.tensor(weights, dtype=torch.float64)
    size = max(1, round(float(weight.sum())))
    drawn = resample(weight, epochs * size, torch.Generator().manual_seed(seed)).view(epochs, size)
    expected = weight / weight.sum() * size
    for epoch in drawn:
        count = epoch.bincount(minlength=len(weights))
        assert bool(((count >= (expected - 1e-9).floor()) & (count <= (expected + 1e-9).ceil())).all())


@settings(max_examples=40, deadline=None)
@given(
    n_rows=st.integers(1, 25),
    n_components=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    batch_size=st.integers(1, 7),
)
def test_a_plan_accounts_for_every_weight_above_the_threshold(n_rows, n_components, seed, batch_size):
    draw = torch.Generator().manual_seed(seed)
    weights = torch.rand(n_rows, n_components, generator=draw).pow(6)
    client_index = torch.randint(3, (n_rows,), generator=draw).sort().values
    jobs = plan_jobs(weights, client_index, epochs=2, batch_size=batch_size)
    kept = torch.where(weights > 0.01, weights, 0).double()
    assert jobs.mass.sum().item() == pytest.approx(kept.sum().item())
    for job in range(len(jobs)):
        entries = slice(int(jobs.start[job]), int(jobs.start[job + 1]))
        rows, component = jobs.row[entries], jobs.component[job]
        assert bool((client_index[rows] == jobs.client[job]).all())
        assert torch.equal(jobs.weight[entries], weights[rows, component].double())
    assert bool((jobs.steps * batch_size >= 2 * jobs.mass - 1e-4).all())


def test_a_batch_above_all_rows_is_every_row_once():
    rows = make_rows([40, 7])
    jobs = plan_jobs(torch.ones(47, 1), rows.client_index, epochs=3, batch_size=10**9)
    assert (jobs.steps.tolist(), jobs.batch.tolist()) == ([3, 3], [40, 7])
    index, _ = draw_batches(jobs, 0, rows, 0, KEY)
    assert all(sorted(step) == list(range(40)) for step in index.tolist())
    start = starts(jobs)
    torch.testing.assert_close(train(rows, jobs, start), loop(rows, jobs, start))


@pytest.mark.parametrize("batch_size", [20, 1000, 1001])
def test_a_client_with_as_many_rows_as_a_batch_is_drawn_from_as_ever(batch_size):
    """And up to 1000 rows a smaller client is: its batches are filled."""
    client_index = torch.arange(2).repeat_interleave(torch.tensor([1200, 30]))
    jobs = plan_jobs(torch.full((1230, 1), 0.5), client_index, epochs=2, batch_size=batch_size)
    small = batch_size if batch_size <= 1000 else 15
    assert jobs.batch.tolist() == [batch_size, small]
    assert jobs.steps.tolist() == [-(-1200 // batch_size), -(-30 // small)]


def test_a_straggler_takes_a_part_of_its_steps_the_same_whoever_trains_beside_it():
    """Its part is that of all it trains in a round, and another one in the next."""
    settings = SETTINGS.model_copy(update={"stragglers": 0.5})
    rows = make_rows([40] * 8)
    jobs = plan(rows, soft_weights(rows))
    part = parts_done(0.5, rows.ids, KEY)
    cut = shortened(jobs, rows, 0.5, KEY)
    assert 0 < int((part < 1).sum()) < 8
    assert torch.equal(cut.steps, torch.ceil(jobs.steps * part[jobs.client]).long())
    assert torch.equal(cut.mass, jobs.mass)
    whole = train(rows, jobs, starts(jobs))
    found = fit(Objective(loss), starts(jobs), jobs, rows, settings=settings, lr=0.01, key=KEY, noise_size=5)
    same = (found == whole).all(1)
    assert torch.equal(same, cut.steps == jobs.steps)
    alone = make_rows([40], [int((part < 1).nonzero()[0])])
    own = plan(alone, soft_weights(alone))
    slow = fit(Objective(loss), starts(own), own, alone, settings=settings, lr=0.01, key=KEY, noise_size=5)
    torch.testing.assert_close(slow, found[jobs.client == alone.ids[0]])
    assert not torch.equal(part, parts_done(0.5, rows.ids, (0, 2, "test")))
    assert parts_done(0.5, rows.ids, (0, 0, "test")).tolist() == [1.0] * 8


def test_stragglers_are_as_many_as_they_should_be_and_finish_half_on_average():
    part = parts_done(0.3, range(4000), KEY)
    slow = part[part < 1]
    assert len(slow) == pytest.approx(1200, abs=100)  # 3.4 standard deviations
    assert float(slow.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(part.min()) > 0
