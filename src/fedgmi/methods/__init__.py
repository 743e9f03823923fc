"""One file per method, one line each in the table."""

from __future__ import annotations

from collections.abc import Callable

from fedgmi.methods.baselines.cfl import cfl
from fedgmi.methods.baselines.ditto import ditto
from fedgmi.methods.baselines.fedavg import fedavg
from fedgmi.methods.baselines.fedem import fedem
from fedgmi.methods.baselines.fedgmm import fedgmm
from fedgmi.methods.baselines.fedprox import fedprox
from fedgmi.methods.baselines.fedsoft import fedsoft
from fedgmi.methods.baselines.flhc import flhc
from fedgmi.methods.baselines.ifca import ifca
from fedgmi.methods.baselines.local import local
from fedgmi.methods.contract import Message, Method, Step, Task
from fedgmi.methods.fedgmi import fedgmi, oracle

METHODS: dict[str, Callable[[Task], Method]] = {
    "fedgmi": fedgmi,
    "fedavg": fedavg,
    "fedprox": fedprox,
    "ditto": ditto,
    "ifca": ifca,
    "cfl": cfl,
    "flhc": flhc,
    "fedsoft": fedsoft,
    "fedem": fedem,
    "fedgmm": fedgmm,
    "local": local,
}
WITHOUT_COMPONENTS = frozenset({"fedavg", "fedprox", "ditto", "cfl", "local"})
"""Those to which a number of components means nothing."""

BOUNDS: dict[str, Callable[[Task], Method]] = {"oracle": oracle}

__all__ = ["BOUNDS", "METHODS", "WITHOUT_COMPONENTS", "Message", "Method", "Step", "Task"]
