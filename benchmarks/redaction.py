"""What redaction costs the thread that emits: each rule beside the same event without any.

``python -m benchmarks.redaction CASE BURSTS`` measures one. Only ratios are told: what a plain
event costs is told elsewhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import truediv
from typing import Annotated, Any, Literal

from benchmarks.processes import run_module
from benchmarks.results import Measurement, Section
from benchmarks.subject import CALLS, Subject
from benchmarks.subject import measure as measure_subject
from benchmarks.subjects import pipeline_in_scope

NOTE = "4929-0001 asked for it on Monday"
MAILED = "alice@example.com asked for it"
DETAILS = {"kind": "visitor", "contact": {"city": "Ghent", "since": "2024"}, "tries": 3}
DENIED = {**DETAILS, "contact": {"city": "Ghent", "password": "hunter2-hunter2"}}


@dataclass(frozen=True)
class Case:
    """One fact, of two texts or, with ``details``, of an open payload."""

    label: str
    against: str = "plain"
    how: Literal["drop", "mask", "hash"] | None = None
    note: str = NOTE
    details: dict[str, Any] | None = field(default=None)
    detect: bool = False


CASES = {
    "plain": Case("two declared texts, no rule", against=""),
    "drop": Case('one of them Sensitive("drop")', how="drop"),
    "mask": Case('one of them Sensitive("mask")', how="mask"),
    "hash": Case('one of them Sensitive("hash")', how="hash"),
    "searched": Case("the detectors, which find nothing", detect=True),
    "found": Case("the detectors, which find an e-mail address", note=MAILED, detect=True),
    "open": Case("an open payload, no name on the deny-list", against="", details=DETAILS),
    "denied": Case("one name on the deny-list", against="open", details=DENIED),
    "open_searched": Case(
        "the detectors as well, which find nothing", against="open", details=DETAILS, detect=True
    ),
}


@contextmanager
def make_subject(case: Case) -> Iterator[Subject]:
    from tenantry import Event, Sensitive, log_event  # noqa: PLC0415  # not where results are made

    note: Any = str if case.how is None else Annotated[str, Sensitive(case.how)]

    class Said(Event):
        reason: str
        note: note

    with pipeline_in_scope(
        [Said], open_taxonomy="visitor_*", redaction_keys={"k": "k" * 32}, detect=case.detect
    ) as subject:
        if case.details is None:
            yield subject(lambda: log_event("said", reason="asked", note=case.note))
        else:
            yield subject(lambda: log_event("visitor_came", details=case.details))


def measure(*, rounds: int, bursts: int) -> Section:
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(rounds):
        for name in CASES if number % 2 == 0 else reversed(CASES):
            found[name].append(run_module("benchmarks.redaction", name, str(bursts))["cpu"])
    return Section(
        f"Redaction: bursts of {CALLS} facts, CPU of the calling thread",
        tuple(
            Measurement.of(
                f"{case.label} / {CASES[case.against].label}",
                "x",
                [*map(truediv, found[name], found[case.against])],
            )
            for name, case in CASES.items()
            if case.against
        ),
    )


if __name__ == "__main__":
    print(json.dumps(measure_subject(make_subject(CASES[sys.argv[1]]), int(sys.argv[2]))))
