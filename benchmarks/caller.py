"""What an event costs the thread that emits it: Tenantry and OpenTelemetry, round by round.

pyperf does not fit here. It could be handed CPU times (``bench_time_func``), yet it runs all
processes of one subject before those of the next, so that whatever drifts on the machine within
minutes lands in the ratio. Here each round runs every subject once, each in a fresh process, and
ratios are taken within a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.processes import run_module
from benchmarks.results import Goal, Measurement, Section, at_most, below, unmeasured
from benchmarks.subjects import BUSY_THREADS, CALLS

LABELS = {
    "plain": "the plain call",
    "wrapt_only": "wrapt alone",
    "decorated": "@emits, two events",
    "otel_logs": "OpenTelemetry, two log records",
    "decorated_sustained": "@emits, sustained",
    "otel_logs_sustained": "OpenTelemetry logs, sustained",
    "decorated_busy": f"@emits beside {BUSY_THREADS} busy threads",
    "otel_logs_busy": f"OpenTelemetry logs beside {BUSY_THREADS} busy threads",
    "decorated_in_span": "@emits within a recording span",
    "decorated_async": "@emits, coroutine function",
    "decorated_method": "@emits, method",
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
    "fact_undetected": "the same, with detect=False",
    "fact_marked": "log_event with a masked and a hashed field",
    "fact_cleaned": "log_event with an e-mail address in its text",
    "otel_span": "OpenTelemetry, one span with attributes",
}
QUICK = ("plain", "decorated", "otel_logs", "decorated_sustained", "decorated_busy", "fact")
FEW_BURSTS = ("decorated_sustained", "otel_logs_sustained", "decorated_busy", "otel_logs_busy")
"""Long by nature: a fifth of the bursts is enough."""


def measure(*, rounds: int, bursts: int, quick: bool) -> Section:
    names = QUICK if quick else tuple(LABELS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            count = max(2, bursts // 5) if name in FEW_BURSTS else bursts
            found[name].append(run_module("benchmarks.subjects", name, str(count)))
    cpu = {name: [each["cpu"] for each in runs] for name, runs in found.items()}
    measurements = [Measurement.of(LABELS[name], "us CPU/call", cpu[name]) for name in names]
    measurements += [
        Measurement.of(f"{LABELS[name]}: elapsed", "us/call", [run["wall"] for run in found[name]])
        for name in names
        if name.endswith("_busy")
    ]
    ratios = [
        Measurement.of(label, "x", divide(cpu[ours], cpu[theirs]))
        for label, ours, theirs in (
            ("ratio @emits / OpenTelemetry logs", "decorated", "otel_logs"),
            ("ratio, sustained", "decorated_sustained", "otel_logs_sustained"),
            ("ratio @emits / one span", "decorated", "otel_span"),
        )
        if ours in cpu and theirs in cpu
    ]
    return Section(
        f"The caller: bursts of {CALLS} calls, CPU of the calling thread",
        (*measurements, *ratios),
        goals(median(cpu["decorated"]), ratios[0].median),
        tuple(
            f"{LABELS[name]}: {lost:.1%} of the calls' records were dropped, which costs less"
            for name, runs in found.items()
            if (lost := sum(run["lost"] for run in runs) / sum(run["calls"] for run in runs) / 2)
            > 0.001
        ),
    )


def goals(caller: float | None = None, ratio: float | None = None) -> tuple[Goal, ...]:
    names = ("a decorated call, two events", "the same / OpenTelemetry's two log records")
    if caller is None or ratio is None:
        return unmeasured(names[0], "<= 10 us"), unmeasured(names[1], "< 1 x")
    return at_most(names[0], 10, " us", caller), below(names[1], 1, " x", ratio)


def divide(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]
