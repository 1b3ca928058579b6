"""Findings: what a check may say, where, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Level = Literal["error", "warning"]


class Code(StrEnum):
    """Every kind of finding."""

    UNKNOWN_OPERATION = "unknown_operation"
    UNKNOWN_EVENT = "unknown_event"
    UNKNOWN_CLASS = "unknown_class"
    UNDECLARED_KEY = "undeclared_key"
    RESERVED_KEY = "reserved_key"
    MISSING_KEY = "missing_key"
    UNCERTAIN_KEY = "uncertain_key"
    OCCURRED_AT_MISSING = "occurred_at_missing"
    NEVER_EMITTED = "never_emitted"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of the application."""

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or may be."""

    place: Place
    level: Level
    code: Code
    message: str
    name: str
    """Of the operation or event."""
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and what was found, by file and line."""

    modules: list[str]
    events: int
    functions: int
    blocks: int
    facts: int
    unchecked: list[Place]
    """Calls whose name or keys are known only when they run."""
    findings: list[Finding]

    def count(self, level: Level) -> int:
        """Count the findings of a level."""
        return sum(1 for finding in self.findings if finding.level == level)
