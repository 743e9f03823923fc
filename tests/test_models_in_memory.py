"""Where memory runs out: fewer jobs at once with the same results, or an error that names the model."""

from __future__ import annotations

import warnings

import pytest
import torch

import test_training as packed
from fedgmi.data.rows import Schema
from fedgmi.errors import ConfigError, FedgmiWarning
from fedgmi.models.memory import WorkingMemory
from fedgmi.models.training import Batch, Jobs, Objective, fit, fit_chunks
from fedgmi.runs.config import from_table
from fedgmi.runs.setup import Setup

FAILURES = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
    "Python": MemoryError(),
}
BYTES = 4 * 6 * packed.LAYOUT.size + 32 * packed.SETTINGS.batch_size * 10
"""Of one job."""


class Small:
    """A device that holds so many jobs, and runs out in the middle of a chunk of more."""

    def __init__(self, holds: int, failure: BaseException) -> None:
        self.holds, self.failure, self.steps, self.failed = holds, failure, 0, 0

    def loss(self, params: torch.Tensor, batch: Batch) -> torch.Tensor:
        self.steps += 1
        if len(params) > self.holds and self.steps % 3 == 0:
            self.failed += 1
            raise self.failure
        return packed.loss(params, batch)


def federation() -> tuple[packed.Rows, Jobs, torch.Tensor]:
    rows = packed.make_rows([30, 60, 45, 52, 38])
    jobs = packed.plan(rows, packed.soft_weights(rows))
    assert len(jobs) == 10
    return rows, jobs, packed.starts(jobs)


def train(device: Small, memory: WorkingMemory | None = None) -> torch.Tensor:
    rows, jobs, start = federation()
    options = {"settings": packed.SETTINGS, "lr": 0.01, "key": packed.KEY, "noise_size": 5, "memory": memory}
    return fit(Objective(device.loss, model="expert tiny"), start, jobs, rows, **options)


@pytest.mark.parametrize("name", FAILURES)
def test_a_chunk_that_is_too_large_is_halved_and_nothing_else_changes(name):
    small = Small(3, FAILURES[name])
    with pytest.warns(FedgmiWarning, match=r"expert tiny: .*no memory for 10 models at once.*goes on with 5") as told:
        trained = train(small)
    assert len(told) == 1
    assert small.failed == 2  # of 10 and of 5, and then there are 3 at once
    assert torch.equal(trained, train(Small(10, FAILURES[name]), WorkingMemory(3 * BYTES)))
    torch.testing.assert_close(trained, train(Small(10, FAILURES[name])), atol=1e-5, rtol=1e-4)


def test_later_rounds_begin_with_what_there_is_and_say_no_more():
    memory = WorkingMemory()
    with pytest.warns(FedgmiWarning):
        train(Small(3, FAILURES["GPU"]), memory)
    assert memory.bytes == 3 * BYTES
    again = Small(3, FAILURES["GPU"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(again, memory)
    assert not again.failed


def test_every_job_is_given_out_once_and_whole():
    rows, jobs, start = federation()
    objective, options = Objective(Small(4, FAILURES["GPU"]).loss), {"settings": packed.SETTINGS, "noise_size": 5}
    with pytest.warns(FedgmiWarning):
        places = [place for place, _ in fit_chunks(objective, start, jobs, rows, lr=0.01, key=packed.KEY, **options)]
    assert sorted(torch.cat(places).tolist()) == list(range(len(jobs)))


def test_one_model_that_is_too_large_is_named():
    with (
        pytest.warns(FedgmiWarning),
        pytest.raises(
            ConfigError, match=r"expert tiny: it has 57 parameters.* wants 2\.\d kB.*make it smaller"
        ) as found,
    ):
        train(Small(0, FAILURES["CPU"]))
    assert found.value.__cause__ is FAILURES["CPU"]


def test_other_failures_pass():
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(Small(3, RuntimeError("shapes differ")))


@pytest.mark.parametrize("section", ["expert", "density"])
def test_a_model_that_no_machine_holds_is_refused_before_it_is_made(section):
    table = {"rounds": 1, section: {"hidden": 10**9}}
    setup = Setup(from_table(table, "test"), Schema((10**6,), 3, "tabular"), 2)
    with pytest.raises(ConfigError, match=rf"{section} (mlp|vae): it has [\d,]+ parameters.*this machine has .*hidden"):
        setup.task()
