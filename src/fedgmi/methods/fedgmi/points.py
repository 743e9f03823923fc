"""Rows as points of the codebook, and the cell that each is in; kept for as long as the codebook is the same."""

from __future__ import annotations

from torch import Tensor

from fedgmi.data.rows import Rows
from fedgmi.methods.contract import Task
from fedgmi.methods.fedgmi.settings import FedGMISettings
from fedgmi.methods.fedgmi.state import Sketch
from fedgmi.mixture.codebook import Projector, cells, projector
from fedgmi.tree import Tree


def projector_of(task: Task[FedGMISettings], server: Tree) -> Projector:
    """What turns rows into points of the codebook."""
    sketch = Sketch(server)
    return projector(sketch.mean, sketch.std, task.settings.projection, task.seed)


def projected(task: Task[FedGMISettings], server: Tree, rows: Rows) -> Tensor:
    """The rows as points of the codebook. [R, d]"""
    sketch = Sketch(server)

    def make() -> Tensor:
        project = projector_of(task, server)
        return project.row_by_row(rows.x) if counts_have_noise(task) else project(rows.x)

    return rows.once("projected", (sketch.mean, sketch.std), make)


def row_cells(task: Task[FedGMISettings], server: Tree, rows: Rows) -> Tensor:
    """The codebook cell of each row [R]."""
    sketch = Sketch(server)

    def make() -> Tensor:
        return cells(projected(task, server, rows), sketch.centres, row_by_row=counts_have_noise(task))

    return rows.once("cells", (sketch.mean, sketch.std, sketch.centres), make)


def counts_have_noise(task: Task[FedGMISettings]) -> bool:
    """Whether noise hides a single row in what is counted: then its cell must not hang on other rows."""
    return task.settings.epsilon is not None
