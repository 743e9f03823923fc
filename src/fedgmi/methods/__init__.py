"""One file per method, one line each in the table.

Names are known without torch, so that a mistyped one is told at once: what needs it is imported when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedgmi.plugins import Table

if TYPE_CHECKING:
    from fedgmi.methods.contract import Entry as Entry
    from fedgmi.methods.contract import Method as Method
    from fedgmi.methods.contract import Predictor as Predictor
    from fedgmi.methods.contract import Task as Task

    BOUNDS: dict[str, Entry[Any]]

OWN = {
    "fedgmi": "fedgmi.methods.fedgmi:FEDGMI",
    "fedavg": "fedgmi.methods.baselines.fedavg:FEDAVG",
    "fedprox": "fedgmi.methods.baselines.fedprox:FEDPROX",
    "fedadam": "fedgmi.methods.baselines.server_optimisers:FEDADAM",
    "fedyogi": "fedgmi.methods.baselines.server_optimisers:FEDYOGI",
    "fedadagrad": "fedgmi.methods.baselines.server_optimisers:FEDADAGRAD",
    "scaffold": "fedgmi.methods.baselines.scaffold:SCAFFOLD",
    "fedavg-ft": "fedgmi.methods.baselines.fedavg_ft:FEDAVG_FT",
    "fedprox-ft": "fedgmi.methods.baselines.fedprox_ft:FEDPROX_FT",
    "ditto": "fedgmi.methods.baselines.ditto:DITTO",
    "apfl": "fedgmi.methods.baselines.apfl:APFL",
    "pfedme": "fedgmi.methods.baselines.pfedme:PFEDME",
    "knn-per": "fedgmi.methods.baselines.knn_per:KNN_PER",
    "fedper": "fedgmi.methods.baselines.fedper:FEDPER",
    "fedrep": "fedgmi.methods.baselines.fedrep:FEDREP",
    "ifca": "fedgmi.methods.baselines.ifca:IFCA",
    "bcfl": "fedgmi.methods.baselines.bcfl:BCFL",
    "cfl": "fedgmi.methods.baselines.cfl:CFL",
    "flhc": "fedgmi.methods.baselines.flhc:FLHC",
    "flux": "fedgmi.methods.baselines.flux:FLUX",
    "fedsoft": "fedgmi.methods.baselines.fedsoft:FEDSOFT",
    "fedem": "fedgmi.methods.baselines.fedem:FEDEM",
    "fedgmm": "fedgmi.methods.baselines.fedgmm:FEDGMM",
    "fedsparse": "fedgmi.methods.baselines.fedsparse:FEDSPARSE",
    "local": "fedgmi.methods.baselines.local:LOCAL",
}


def wrong(name: str, entry: Any) -> str:
    """What is wrong with an outside package's entry, or ""."""
    from fedgmi.methods.contract import wrong_entry

    return wrong_entry(name, entry)


METHODS: Table[Entry[Any]] = Table("method", "methods", OWN, wrong)
"""Every method by its name in the settings, those of outside packages too. A file is loaded once its method is used."""


def __getattr__(name: str) -> Any:
    """The contract's classes; and BOUNDS, what results stand beside, and what nobody can deploy: it knows the truth."""
    if name == "BOUNDS":
        return {"oracle": import_module("fedgmi.methods.fedgmi").ORACLE}
    if name in __all__:
        return getattr(import_module("fedgmi.methods.contract"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["BOUNDS", "METHODS", "Entry", "Method", "Predictor", "Task"]
