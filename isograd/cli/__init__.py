"""The command line: thin over the stages.

Exit codes: 0 healthy or cured, or done; 1 sick, and not cured; 2 unusable input; 130 interrupted;
141 nobody read the output.
"""

from isograd.cli.common import HEALTHY, INTERRUPTED, SICK, UNREAD, UNUSABLE
from isograd.cli.entry import main

__all__ = ["HEALTHY", "INTERRUPTED", "SICK", "UNREAD", "UNUSABLE", "main"]
