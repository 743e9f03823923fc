"""One file per method, one line each in the table."""

from __future__ import annotations

from typing import Any

from fedgmi.methods.baselines.apfl import APFL
from fedgmi.methods.baselines.cfl import CFL
from fedgmi.methods.baselines.ditto import DITTO
from fedgmi.methods.baselines.fedavg import FEDAVG
from fedgmi.methods.baselines.fedavg_ft import FEDAVG_FT
from fedgmi.methods.baselines.fedem import FEDEM
from fedgmi.methods.baselines.fedgmm import FEDGMM
from fedgmi.methods.baselines.fedper import FEDPER
from fedgmi.methods.baselines.fedprox import FEDPROX
from fedgmi.methods.baselines.fedprox_ft import FEDPROX_FT
from fedgmi.methods.baselines.fedrep import FEDREP
from fedgmi.methods.baselines.fedsoft import FEDSOFT
from fedgmi.methods.baselines.flhc import FLHC
from fedgmi.methods.baselines.ifca import IFCA
from fedgmi.methods.baselines.local import LOCAL
from fedgmi.methods.baselines.pfedme import PFEDME
from fedgmi.methods.baselines.scaffold import SCAFFOLD
from fedgmi.methods.baselines.server_optimisers import FEDADAGRAD, FEDADAM, FEDYOGI
from fedgmi.methods.contract import Entry, Method, Predictor, Task, table_of, wrong_entry
from fedgmi.methods.fedgmi import FEDGMI, ORACLE
from fedgmi.plugins import Table

OWN = table_of(
    FEDGMI,
    FEDAVG,
    FEDPROX,
    FEDADAM,
    FEDYOGI,
    FEDADAGRAD,
    SCAFFOLD,
    FEDAVG_FT,
    FEDPROX_FT,
    DITTO,
    APFL,
    PFEDME,
    FEDPER,
    FEDREP,
    IFCA,
    CFL,
    FLHC,
    FEDSOFT,
    FEDEM,
    FEDGMM,
    LOCAL,
)
METHODS: Table[Entry[Any]] = Table("method", "methods", OWN, wrong_entry)
"""Every method by its name in the settings, those of outside packages too."""
BOUNDS = {"oracle": ORACLE}
"""What results stand beside, and what nobody can deploy: it knows the truth. Its settings are fedgmi's."""

__all__ = ["BOUNDS", "METHODS", "Entry", "Method", "Predictor", "Task"]
