"""What an event costs the thread that emits it: Tenantry and what else one might use, in rounds.

pyperf does not fit here. It could be handed CPU times (``bench_time_func``), yet it runs all
processes of one subject before those of the next, so that whatever drifts on the machine within
minutes lands in the ratio. Here each round runs every subject once, each in a fresh process, and
ratios are taken within a round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import sub, truediv
from statistics import median

from benchmarks.peers import PEERS
from benchmarks.processes import run_module
from benchmarks.results import Goal, Measurement, Section, at_most, below
from benchmarks.subject import BUSY_THREADS, CALLS

COMPARED = {
    "plain": "the plain call",
    "wrapt_only": "wrapt alone",
    "decorated": "@emits, two events",
    "eliot_in_memory": "Eliot, an action in memory",
    "eliot_to_file": "Eliot, an action to a file",
    "ddtrace_wrap": "ddtrace, wrap with tags",
    "structlog_to_file": "structlog, two lines to a file",
    "otel_span": "OpenTelemetry, a span with attributes",
    "otel_logs": "OpenTelemetry, two log records",
    "segment_tracks": "Segment, two tracks",
    "sentry_span": "Sentry, a span with data",
    "posthog_captures": "PostHog, two captures",
    "logfire_instrument": "Logfire, instrument",
}
LESS = {
    "unconfigured": "@emits, not configured",
    "left_out": "@emits, left out of the taxonomy",
    "sampled_out": "@emits, sampled out",
    "fact_sampled_out": "log_event by name, sampled out",
    "full": "@emits, journal full, dropped",
}
FORMS = {
    "decorated_method": "@emits, method",
    "decorated_async": "@emits, coroutine function",
    "returned_coroutine": "@emits, function that returns a coroutine",
    "generator": "@emits, generator of one item",
    "plain_item": "an item of a plain generator",
    "generator_item": "an item of a generator with @emits",
    "async_generator": "@emits, asynchronous generator of one item",
    "plain_async_item": "an item of a plain asynchronous generator",
    "async_generator_item": "an item of an asynchronous generator with @emits",
    "block": "with emits(…)",
    "fact": "log_event(QuotaExceeded(…))",
    "fact_by_name": 'log_event("quota_exceeded", …)',
    "decorated_in_span": "@emits within a recording span",
    "decorated_sustained": "@emits, sustained",
    "otel_logs_sustained": "OpenTelemetry logs, sustained",
    "decorated_busy": f"@emits beside {BUSY_THREADS} busy threads",
    "otel_logs_busy": f"OpenTelemetry logs beside {BUSY_THREADS} busy threads",
}
LABELS = {**COMPARED, **LESS, **FORMS}
QUICK = ("plain", "wrapt_only", "decorated", "eliot_in_memory", "otel_logs", *LESS, "fact")
FEW_BURSTS = ("decorated_sustained", "otel_logs_sustained", "decorated_busy", "otel_logs_busy")
"""Long by nature: a fifth of the bursts is enough."""


@dataclass(frozen=True)
class Comparison:
    """Two subjects, set against each other within each round."""

    label: str
    ours: str
    theirs: str
    unit: str = "x"

    def measure(self, cpu: Mapping[str, Sequence[float]]) -> Measurement | None:
        """Give the ratio, or the difference in microseconds; None where one was not measured."""
        if self.ours not in cpu or self.theirs not in cpu:
            return None
        operation = truediv if self.unit == "x" else sub
        return Measurement.of(
            self.label, self.unit, [*map(operation, cpu[self.ours], cpu[self.theirs])]
        )


RATIOS = tuple(
    Comparison(f"two events of @emits / {label}", "decorated", name)
    for name, label in COMPARED.items()
    if name not in {"plain", "wrapt_only", "decorated"}
)
BEYOND = (
    *(Comparison(f"{LESS[name]}: beyond wrapt alone", name, "wrapt_only", "us") for name in LESS),
    Comparison("journal full, dropped / stored", "full", "decorated"),
)
SUSTAINED = Comparison(
    "sustained: @emits / OpenTelemetry logs", "decorated_sustained", "otel_logs_sustained"
)


def measure(*, rounds: int, bursts: int, quick: bool) -> list[Section]:
    names = QUICK if quick else tuple(LABELS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            count = max(2, bursts // 5) if name in FEW_BURSTS else bursts
            module = "benchmarks.peers" if name in PEERS else "benchmarks.subjects"
            found[name].append(run_module(module, name, str(count)))
    cpu = {name: [each["cpu"] for each in runs] for name, runs in found.items()}

    def measured(labels: Mapping[str, str]) -> list[Measurement]:
        return [
            Measurement.of(label, "us CPU/call", cpu[name])
            for name, label in labels.items()
            if name in cpu
        ]

    def compared(*comparisons: Comparison) -> list[Measurement]:
        return [each for one in comparisons if (each := one.measure(cpu)) is not None]

    elapsed = [
        Measurement.of(f"{LABELS[name]}: elapsed", "us/call", [run["wall"] for run in found[name]])
        for name in names
        if name.endswith("_busy")
    ]
    notes = tuple(
        f"{LABELS[name]}: {lost:.1%} of the calls' records were dropped, which costs less"
        for name, runs in found.items()
        if (lost := sum(run["lost"] for run in runs) / sum(run["calls"] for run in runs) / 2)
        > 0.001
    )
    method = f"bursts of {CALLS} calls, CPU of the calling thread"
    return [
        Section(
            f"The caller, beside others: {method}",
            (*measured(COMPARED), *compared(*RATIOS)),
            goals(cpu),
            notes,
            bars=True,
        ),
        Section(
            f"The caller, when nothing is stored: {method}", (*measured(LESS), *compared(*BEYOND))
        ),
        Section(
            f"The caller, each form: {method}",
            (*measured(FORMS), *elapsed, *compared(SUSTAINED)),
        ),
    ]


def goals(cpu: Mapping[str, Sequence[float]] | None = None) -> tuple[Goal, ...]:
    found = cpu or {}

    def value(ours: str, theirs: str, unit: str) -> float | None:
        measurement = Comparison("", ours, theirs, unit).measure(found)
        return None if measurement is None else measurement.median

    caller = median(found["decorated"]) if "decorated" in found else None
    otel, eliot = value("decorated", "otel_logs", "x"), value("decorated", "eliot_in_memory", "x")
    beyond = {name: value(name, "wrapt_only", "us") for name in LESS}
    return (
        at_most("a decorated call, two events", 10, " us", caller),
        at_most("two events / OpenTelemetry's two log records", 0.3, " x", otel),
        below("two events / Eliot's action in memory", 1, " x", eliot),
        at_most("not configured, beyond wrapt alone", 0.7, " us", beyond["unconfigured"]),
        at_most("left out of the taxonomy, beyond wrapt alone", 0.7, " us", beyond["left_out"]),
        at_most("sampled out, beyond wrapt alone", 1.2, " us", beyond["sampled_out"]),
        at_most("journal full, dropped / stored", 1, " x", value("full", "decorated", "x")),
    )
