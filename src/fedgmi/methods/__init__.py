"""One file per method, one line each in the table."""

from __future__ import annotations

from typing import Any

from fedgmi.methods.contract import Entry, Method, Predictor, Task, wrong_entry
from fedgmi.methods.fedgmi import ORACLE
from fedgmi.plugins import Table

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
METHODS: Table[Entry[Any]] = Table("method", "methods", OWN, wrong_entry)
"""Every method by its name in the settings, those of outside packages too. A file is loaded once its method is used."""
BOUNDS = {"oracle": ORACLE}
"""What results stand beside, and what nobody can deploy: it knows the truth. Its settings are fedgmi's."""

__all__ = ["BOUNDS", "METHODS", "Entry", "Method", "Predictor", "Task"]
