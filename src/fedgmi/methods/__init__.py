"""One file per method, one line each in the table."""

from __future__ import annotations

from collections.abc import Callable

from fedgmi.methods.base import Message, Method, Step, Task
from fedgmi.methods.clustered.cfl import cfl
from fedgmi.methods.clustered.flhc import flhc
from fedgmi.methods.ditto import ditto
from fedgmi.methods.fedavg import fedavg
from fedgmi.methods.fedem import fedem
from fedgmi.methods.fedgmi import fedgmi, oracle
from fedgmi.methods.fedgmm import fedgmm
from fedgmi.methods.fedprox import fedprox
from fedgmi.methods.fedsoft import fedsoft
from fedgmi.methods.ifca import ifca
from fedgmi.methods.local import local

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
