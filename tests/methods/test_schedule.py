"""fedgmi's schedule: the table, the programs made of it, and what their steps really read and write."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from federations import draw, gaussian_scenario, make_task, run, without_labels
from fedgmi.data.rows import Rows, pack
from fedgmi.methods import BOUNDS, METHODS, Method, Task
from fedgmi.methods.fedgmi import schedule
from fedgmi.methods.fedgmi.conditions import calibration_has_begun, calibration_is_of_use, counts_decide, gate_may_move
from fedgmi.methods.fedgmi.oracle import oracle_schedule
from fedgmi.methods.fedgmi.schedule import Schedule, applies, of_use
from fedgmi.methods.fedgmi.settings import choose_judges
from fedgmi.methods.fedgmi.sketch import RELIABLE
from fedgmi.protocol.step import Phase, Step, changed, covers, select
from fedgmi.tree import Tree

FEDERATION = gaussian_scenario(8, 40, separation=4.0)
ROUNDS = 4  # one of warm-up, and two after which the reference models stay
PHASES: tuple[Phase, ...] = ("prepare", "round", "finish")
PRESETS = {
    "default": schedule.default,
    "plain": lambda own, labelled: schedule.plain(),
    "sketch": lambda own, labelled: schedule.sketch(own),
    "oracle": oracle_schedule,
    "closed": schedule.closed,
}
OWN = {
    "oracle": {"method": "oracle", "judge_turns": 2},
    "default": {"judges": "density"},
    "closed": {"judges": "closed", "judge_turns": 2},
}


@pytest.fixture(params=[(preset, labels) for preset in PRESETS for labels in (True, False)], ids=str)
def made(request: pytest.FixtureRequest) -> tuple[Task[Any], Method, Schedule]:
    """A task, its method, and the preset's schedule; with labels and without."""
    preset, labels = request.param
    schema = (FEDERATION if labels else without_labels(FEDERATION)).federation.schema
    given = OWN.get(preset, {"preset": preset})
    task = make_task(schema, reference_rounds=2, personal=False, **given)  # what follows at the end is any method's
    method = (METHODS | BOUNDS)[str(given.get("method", "fedgmi"))](task)
    own = choose_judges(task.settings, schema.n_classes)
    table = PRESETS[preset](own, schema.labelled)
    return task, method, table


def rows_of(task: Task[Any]) -> Rows:
    """All clients' rows, with nothing kept from earlier exchanges."""
    scenario = FEDERATION if task.schema.n_classes else without_labels(FEDERATION)
    assert scenario.truth is not None
    federation = scenario.federation
    return pack(federation.clients, None, scenario.truth.components, validation=federation.validation)


class Watched(dict[str, Tensor]):
    """A state that notes which of its leaves are read."""

    def __init__(self, leaves: Tree) -> None:
        super().__init__(leaves)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)


def exchanges(task: Task[Any], method: Method) -> Iterator[tuple[str, Watched, Tree, Tree, Tree, Step]]:
    """A run, exchange by exchange → phase and step, what was read, the server before and after, the clients' states,
    and the step."""
    program = method.program
    server, states = program.init(), program.client_init(tuple(range(len(FEDERATION.federation.clients))))
    for number in range(ROUNDS + 2):
        phase = "prepare" if number == 0 else "round" if number <= ROUNDS else "finish"
        for step in program.steps(phase):
            if step.when is not None and not step.when(server):
                continue
            with torch.no_grad():
                part = Watched(select(server, step.reads))
                states, message = step.client(part, states, rows_of(task), number)
                before, server = server, step.server(server, message, number)
            yield f"{phase} {step.name}", part, before, server, states, step


def test_judges_in_closed_form_take_turns_before_the_first_round():
    """So it is by default where labels are classes."""
    task = make_task(FEDERATION.federation.schema, kmeans_rounds=1, calibration_steps=1, judge_turns=2, personal=False)
    program = METHODS["fedgmi"](task).program
    turn = ["judges", "shares", "calibrate", "shares"]
    assert [step.name for step in program.prepare] == [
        *("features", "spread", "k-means", "histograms", "fold in"),
        *turn,
        *turn,
    ]
    assert [step.name for step in program.round] == ["em", "em"]  # of which the former is without densities
    gate = ["gate shares", *["calibrate gate", "gate shares"] * 2]
    late = [*turn, "e-step", "cells"]
    assert [step.name for step in program.finish] == ["e-step", "cells", *late, *gate, "contrast", "switch"]
    assert [step.name for step in program.all_steps if step.unforeseen] == late


def test_where_densities_judge_the_order_is():
    task = make_task(FEDERATION.federation.schema, judges="density", kmeans_rounds=2, calibration_steps=1)
    own_part = ["try own parts", "own part", *["weigh"] * 3, "temper", "own weights"]
    program = METHODS["fedgmi"](task).program
    names = {phase: [step.name for step in program.steps(phase)] for phase in PHASES}
    calibration = ["scale evidence", "shares", "calibrate", "shares"]
    gate = ["gate shares", *["calibrate gate", "gate shares"] * 2]
    assert names == {
        "prepare": ["features", "spread", "k-means", "k-means", "histograms", "fold in"],
        "round": [*calibration, "em"],
        "finish": [*calibration, "e-step", "cells", *gate, "contrast", "switch", *own_part],
    }
    conditions = {step.name: step.when.func for step in program.round if isinstance(step.when, partial)}
    begun = dict.fromkeys(("shares", "calibrate"), calibration_has_begun)
    assert conditions == {"scale evidence": calibration_is_of_use} | begun
    assert [step.name for step in program.all_steps if step.single] == ["histograms"]
    at_the_end = [step.when for step in program.finish[: -len(own_part) + 1]]
    assert all(step.when is None for step in program.prepare)
    assert [when.func if when else None for when in at_the_end[:5]] == [*[counts_decide] * 4, None]
    assert {when.func for when in at_the_end[4:] if when} == {gate_may_move}


@pytest.mark.parametrize("judges", ["closed", "density"])
def test_where_the_sketch_tells_no_components_apart_judges_and_calibration_are_not_asked(judges):
    """They would have rounding errors alone to learn from, and learn."""
    alike = gaussian_scenario(20, 40, alpha=1e4)
    method = METHODS["fedgmi"](make_task(alike.federation.schema, judges=judges, personal=False))
    server, states, _ = run(method, alike)
    assert float(server["sketch/reliability"]) < RELIABLE
    torch.testing.assert_close(states["proportions"], torch.full((20, 3), 1 / 3, dtype=torch.float64))
    assert server["calibration/weights"].tolist() == [1.0, 0.0, 0.0]
    assert int(server["calibration/begun"]) == -1
    assert judges == "density" or int(server["judges/turn"]) == 0


def test_programs_are_what_the_table_says(made):
    task, method, table = made
    for phase in PHASES:
        rows, steps = [row for row in table.rows(phase) if applies(row, task.schema)], method.program.steps(phase)
        assert [row.step for row in rows] == [step.name for step in steps]
        for row, step in zip(rows, steps, strict=True):
            down = table.down(row)
            assert step.reads == of_use(down, task.schema)
            assert (step.tells, step.single) == (row.up, row.single)
            assert (None if step.when is None else step.when.func) == row.when


def test_every_row_names_the_file_with_its_arithmetic(made):
    """But for what others do too: sums of features, and the turns of the two calibrations."""
    shared = {"features": "local_training", "gate shares": "calibration", "calibrate gate": "calibration"}
    task, method, table = made
    for phase in PHASES:
        for row, step in zip(
            [row for row in table.rows(phase) if applies(row, task.schema)], method.program.steps(phase), strict=True
        ):
            assert step.client.__module__.rpartition(".")[2] == shared.get(row.step, row.where)


def test_steps_read_and_write_exactly_what_they_declare(made):
    task, method, _ = made
    steps = [step for step in method.program.all_steps if not step.unforeseen]
    declared = {(step.name, step.reads): step for step in steps}
    read = {name: set[str]() for name in declared}
    written = {name: set[str]() for name, _ in declared}
    for _, part, before, after, _, step in exchanges(task, method):
        name = step.name, step.reads
        read[name] |= part.read
        written[step.name] |= set(changed(before, after))
    for name, step in declared.items():
        assert read[name] == set(step.reads), name
        unlabelled = set() if task.schema.n_classes else {"expert", "reference/expert"}
        silent = {entry for entry in step.writes if not any(covers(entry, leaf) for leaf in written[step.name])}
        assert silent <= unlabelled, name


def test_a_predictor_reads_exactly_what_it_declares(made):
    task, method, _ = made
    *_, (_, _, _, server, states, _) = exchanges(task, method)
    part, predictor = Watched(select(server, method.predictor.reads)), method.predictor
    rows = rows_of(task)
    assert None not in (predictor.density, predictor.sample, predictor.infer_client, predictor.pooled)
    predictor.evidence(part, rows_of(task))
    predictor.responsibilities(part, states, rows_of(task))
    predictor.infer_client(part, rows_of(task))
    predictor.density(part, rows.x, torch.zeros(len(rows), 1, task.density.noise_size))
    predictor.sample(part, 0, 2, draw())
    assert torch.equal(predictor.pooled(part), server["calibration/share"])
    if task.schema.n_classes:
        predictor.predict(part, states, rows_of(task))
        assert predictor.expert(part, rows.x).shape == (len(rows), 3, 2)
    else:
        assert predictor.expert is None
        bare = {"gate/cells", "gate/weights", "gate/bias", "gate/share", "gate/contrast"}
        predictor.evidence(part, rows_of(task))
        assert set(predictor.reads) - part.read <= bare  # a gate is for predicting labels, and is asked of rows without
        return
    assert part.read == set(predictor.reads)


@pytest.mark.parametrize("preset", ["default", "sketch"])
def test_histograms_stay_on_the_server_and_never_go_down(preset):
    task = make_task(FEDERATION.federation.schema, preset=preset)
    method = METHODS["fedgmi"](task)
    assert method.counts(method.program.init()) is None
    *_, (_, _, _, server, _, _) = exchanges(task, method)
    counts = method.counts(server)
    assert counts.dtype == torch.int32
    assert counts.sum(1).tolist() == [40] * 8
    assert not any(covers(entry, "sketch/histograms") for step in method.program.all_steps for entry in step.reads)
    assert "sketch/histograms" not in select(server, method.predictor.reads)


def test_metrics_are_there_once_they_are_known():
    method = METHODS["fedgmi"](task := make_task(FEDERATION.federation.schema))
    assert method.metrics(method.program.init()) == {}
    found = [(name, method.metrics(server)) for name, _, _, server, _, _ in exchanges(task, method)]
    told = {"components_shown", "rows_in_lost_words", "reliability", "scatter", "contrast", "rows_decide"}
    assert dict(found)["prepare histograms"].keys() == told
    assert found[-1][1].keys() == told | {"bound"}
