"""What is measured in a run: summaries that merge, records of steps, and where they are kept."""

from isograd.telemetry.exponents import Exponents
from isograd.telemetry.records import KINDS, Kind, Record, Site, Telemetry
from isograd.telemetry.store import Store
from isograd.telemetry.summary import EMPTY, Summary, merge

__all__ = [
    "EMPTY",
    "KINDS",
    "Exponents",
    "Kind",
    "Record",
    "Site",
    "Store",
    "Summary",
    "Telemetry",
    "merge",
]
