"""What lies in a results folder, as models: what is written goes through them, and what is read.

Every file says which fedgmi wrote it, and in which version of these models. `docs/schemas/` holds them as JSON schemas.
Reports take plain values, as the files have them: they draw what is there, and do without pydantic.
"""

from __future__ import annotations

from fedgmi.runs.records.base import VERSION, Written
from fedgmi.runs.records.comparison import Comparison
from fedgmi.runs.records.diagnosis import DiagnosisRecord
from fedgmi.runs.records.run import Estimate, Outcome, Record, Summary
from fedgmi.runs.records.status import SiteStatus, Status

ALL: tuple[type[Written], ...] = (Summary, Record, Estimate, DiagnosisRecord, Comparison, Status)
"""One for each kind of file."""

__all__ = [
    "ALL",
    "VERSION",
    "Comparison",
    "DiagnosisRecord",
    "Estimate",
    "Outcome",
    "Record",
    "SiteStatus",
    "Status",
    "Summary",
    "Written",
]
