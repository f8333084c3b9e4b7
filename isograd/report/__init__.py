"""What a person, or a program, gets to see."""

from isograd.report.check import check
from isograd.report.doctor import Report, doctor

__all__ = ["Report", "check", "doctor"]
