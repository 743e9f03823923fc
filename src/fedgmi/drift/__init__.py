"""Has a client drifted? Batches of its rows over time, against the rows it had before. See docs/drift.md."""

from fedgmi.drift.model import Model as Model
from fedgmi.drift.monitor import Monitor as Monitor
from fedgmi.drift.report import Report as Report
from fedgmi.drift.report import State as State
