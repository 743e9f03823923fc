"""A table's numbers on one scale, and its missing values filled: one more step before a method's own.

    client   Σ x, Σ x², n of its rows            → server   mean and deviation, the leaves `scale/mean`, `scale/std`
    from then on every step, and the predictor, sees (x − mean) / std, at most 100 from 0

A value that is far from all others of its client has no part in the sums; see `fedgmi.data.far`.

Where values may be missing, the sums are over those that are there, with a count for each column. The columns' means go
back as the leaf `scale/fill`, and take the place of missing values before anything else is done. Targets that are no
classes get a scale in the same step; see `target_scale`.

The server learns sums over each client's rows, as in any other step; see `fedgmi.data.standardise`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedgmi import tree
from fedgmi.data.far import BOUND, tamed
from fedgmi.data.rows import Rows, Schema
from fedgmi.data.standardise import Standardisation, feature_sums, filled, means, standardisation
from fedgmi.data.validate import check_scalable
from fedgmi.methods.contract import Method, Predictor
from fedgmi.methods.local_training import FEATURE_SUMS
from fedgmi.methods.plausible import either, wrong_features, wrong_targets
from fedgmi.methods.target_scale import (
    TARGET_LEAVES,
    TELLS,
    target_leaves,
    target_sums,
    time_steps,
    to_scale,
    to_units,
)
from fedgmi.protocol.message import Message
from fedgmi.protocol.step import Step
from fedgmi.tree import Tree

STANDARDISE = "standardise"  # the step's name
SCALE = "scale"
MEAN, STD, FILL = f"{SCALE}/mean", f"{SCALE}/std", f"{SCALE}/fill"
FILLED = f"{FEATURE_SUMS}, and of how many rows each feature is known"


def prepared(method: Method, schema: Schema, *, standardise: bool, agreed: Standardisation | None = None) -> Method:
    """The method on rows as they come: on one scale if they are to be, with missing values filled by the rule.

    Args:
        method: Any.
        schema: What rows look like. Its rule says what becomes of missing values.
        standardise: Whether rows are brought to one scale, by sums over all rows.
        agreed: A scale that is known beforehand; None: there is none.

    Returns:
        The method, with one step before its preparation where there is anything to do.

    Raises:
        DataError: For pictures on one scale.
    """
    if agreed is not None:
        return on_agreed_scale(method, schema, agreed)
    if not standardise and schema.missing == "refuse" and schema.task == "classification":
        return method
    return standardised(method, schema, scale=standardise)


def standardised(method: Method, schema: Schema, *, scale: bool = True) -> Method:
    """The method on standardised rows: it is given rows in their own units, and brings them to one scale itself.

    Args:
        method: Any.
        schema: What rows look like.
        scale: False: missing values are filled, and rows stay in their own units.

    Returns:
        The same method with one step before its preparation. Densities are those of standardised rows; see `scale_of`
        for the way back.

    Raises:
        DataError: For pictures, which are in [0, 1] already.
    """
    if scale or schema.missing != "refuse":
        check_scalable(schema)
    first = (standardise_step(schema, scale=scale), *(time_steps() if schema.task == "survival" else ()))
    late = method.program.late_are_new
    method = _on_leaves(method, _leaves(schema, scale), schema)
    program = replace(method.program, prepare=(*first, *method.program.prepare), joins_late=late)
    return replace(method, program=program)


def on_agreed_scale(method: Method, schema: Schema, scale: Standardisation) -> Method:
    """The method on rows that are brought to a scale which all know beforehand. Clients are asked for nothing.

    Args:
        method: Any.
        schema: What rows look like: complete, and labels are classes.
        scale: Such as ranges of the features give.

    Returns:
        The same method, in whose first state the scale is.
    """
    first = method.program.init
    method = _on_leaves(method, (SCALE,), schema)
    known = {MEAN: scale.mean, STD: scale.std}
    return replace(method, program=replace(method.program, init=lambda: first() | known))


def _on_leaves(method: Method, leaves: tuple[str, ...], schema: Schema) -> Method:
    """The method whose steps and predictor see rows on the scale in some leaves of the server's state."""
    wrapped: dict[int, Step] = {}

    def wrap(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        """A step that stands in several places stays one object."""
        for step in steps:
            wrapped.setdefault(id(step), _on_scale(step, leaves, schema))
        return tuple(wrapped[id(step)] for step in steps)

    program = method.program
    prepare, round, finish = (wrap(steps) for steps in (program.prepare, program.round, program.finish))
    predictor = _predictor(method.predictor, leaves, schema)
    return replace(method, program=replace(program, prepare=prepare, round=round, finish=finish), predictor=predictor)


def standardise_step(schema: Schema, *, scale: bool = True) -> Step:
    """Federated sums of the features, and from them mean and deviation, and what missing values are filled with; and
    sums of targets that are no classes."""
    gaps, leaves = schema.missing != "refuse", _leaves(schema, scale)
    tells = [FILLED if gaps else FEATURE_SUMS] if SCALE in leaves else []
    target = TARGET_LEAVES[schema.task]
    made = (MEAN, STD, *((FILL,) if gaps else ())) if SCALE in leaves else ()
    tells += [TELLS[schema.task]] if target else []

    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        sums: Tree = {}
        sizes = rows.counts.tolist()
        for x in torch.split(rows.x, sizes) if SCALE in leaves else ():  # client by client, as a deployment adds them
            sums = tree.add(sums, feature_sums(tamed(x), gaps=gaps))
        ys: Tree = {}
        for y in torch.split(rows.y, sizes) if target and rows.y is not None else ():
            ys = tree.add(ys, target_sums(schema, y))
        return states, Message(sums=sums | ys)

    def take(server: Tree, message: Message, round: int) -> Tree:
        found = target_leaves(schema, message.sums) if target else {}
        if SCALE in leaves:
            mean, (centre, std) = means(message.sums), standardisation(message.sums, schema.features)
            if not scale:
                centre, std = torch.zeros_like(mean), torch.ones_like(mean)
            found |= {MEAN: centre, STD: std} | ({FILL: mean} if gaps else {})
        return server | found

    return Step(
        STANDARDISE,
        client,
        take,
        check=either(wrong_features(None, gaps=gaps) if SCALE in leaves else None, wrong_targets if target else None),
        writes=(*made, *target[:1]),  # the others of `target` come of steps of their own
        tells="; ".join(tells),
    )


def _leaves(schema: Schema, scale: bool) -> tuple[str, ...]:
    """Which scales there are: of features, of targets."""
    features = scale or schema.missing != "refuse"
    return (*((SCALE,) if features else ()), *TARGET_LEAVES[schema.task])


def scale_of(server: Tree) -> Standardisation | None:
    """How rows were brought to mean 0 and deviation 1; None where they are in their own units."""
    return _scale(server) if MEAN in server else None


def _scale(server: Tree) -> Standardisation:
    return Standardisation(server[MEAN], server[STD])


def _on_scale(step: Step, leaves: tuple[str, ...], schema: Schema) -> Step:
    def client(server: Tree, states: Tree, rows: Rows, round: int) -> tuple[Tree, Message]:
        return step.client(server, states, _rescaled(server, rows, schema), round)

    def take(server: Tree, message: Message, round: int) -> Tree:
        kept = (MEAN, STD, FILL, *TARGET_LEAVES[schema.task])
        return {leaf: server[leaf] for leaf in kept if leaf in server} | step.server(server, message, round)

    return replace(step, client=client, server=take, reads=(*step.reads, *leaves))


def _rescaled(server: Tree, rows: Rows, schema: Schema) -> Rows:
    """The rows on the server's scale; what they keep between exchanges stays theirs."""
    validation = None if rows.validation is None else _rescaled(server, rows.validation, schema)
    y = rows.y
    if y is not None and schema.task != "classification":
        y = to_scale(schema, server, y)
    return replace(rows, x=_complete(server, rows.x), y=y, validation=validation)


def _complete(server: Tree, x: Tensor) -> Tensor:
    """x on the server's scale, without gaps, within the bound."""
    if MEAN not in server:
        return x
    return _scale(server).apply(filled(x, server[FILL]) if FILL in server else x).clamp(-BOUND, BOUND)


def _predictor(old: Predictor, leaves: tuple[str, ...], schema: Schema) -> Predictor:
    def on_rows(function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose last argument is rows."""
        return lambda server, *rest: function(server, *rest[:-1], _rescaled(server, rest[-1], schema))

    def on_x(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function whose second argument is x."""
        return lambda server, x, *rest: function(server, _complete(server, x), *rest)

    def sample(server: Tree, component: int, n: int, draws: torch.Generator) -> Tensor:
        assert old.sample is not None
        drawn = old.sample(server, component, n, draws)
        return _scale(server).undo(drawn) if MEAN in server else drawn

    def in_units(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function whose result is predictions, in the target's own units."""
        if schema.task == "classification":
            return function
        return lambda server, *rest: to_units(schema, server, function(server, *rest))

    return replace(
        old,
        predict=in_units(on_rows(old.predict)),
        shared=old.shared and in_units(on_rows(old.shared)),
        welcome=old.welcome and on_rows(old.welcome),
        reads=(*old.reads, *leaves),
        responsibilities=old.responsibilities and on_rows(old.responsibilities),
        evidence=old.evidence and on_rows(old.evidence),
        infer_client=old.infer_client and on_rows(old.infer_client),
        density=old.density and on_x(old.density),
        sample=old.sample and sample,
        expert=old.expert and in_units(on_x(old.expert)),
    )
