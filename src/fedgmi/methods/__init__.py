"""One file per method, one line each in the table."""

from __future__ import annotations

from collections.abc import Callable

from fedgmi.methods.base import Message, Method, Step, Task
from fedgmi.methods.fedavg import fedavg
from fedgmi.methods.fedgmi import fedgmi, oracle
from fedgmi.methods.local import local

METHODS: dict[str, Callable[[Task], Method]] = {"fedgmi": fedgmi, "fedavg": fedavg, "local": local}
BOUNDS: dict[str, Callable[[Task], Method]] = {"oracle": oracle}

__all__ = ["BOUNDS", "METHODS", "Message", "Method", "Step", "Task"]
