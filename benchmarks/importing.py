"""What ``import tenantry`` adds to what wrapt, pydantic and opentelemetry-api cost together.

All bytecode is cached, as it is after an installation: in a folder of our own, because a working
copy may be read-only, or be told to keep none. Of pydantic counts what any declared model needs: it
loads half of itself when ``Field`` is first asked for, and looks through all installed
distributions for plug-ins when the first model is made. What the rest is made of, ``python -X
importtime`` says.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile

from benchmarks.processes import TIMEOUT, run_python
from benchmarks.results import Goal, Measurement, Section, at_most, unmeasured

PROGRAM = """
from time import perf_counter
begin = perf_counter()
import wrapt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from opentelemetry import context, trace
type("Declared", (BaseModel,), {})
others = perf_counter()
import tenantry
end = perf_counter()
print('{"others": %f, "tenantry": %f}' % ((others - begin) * 1e3, (end - others) * 1e3))
"""
MARK = "-- tenantry"
TIMED = PROGRAM.replace(
    "import tenantry\n", f"import sys; print({MARK!r}, file=sys.stderr)\nimport tenantry\n"
)
TOP = 12
"""Modules to show."""


def measure(*, rounds: int) -> list[Section]:
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as bytecode:
        environment = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
        run_python("-c", PROGRAM, environment=environment)  # compiles
        found = [run_python("-c", PROGRAM, environment=environment) for _ in range(rounds)]
        modules = [
            run_python("-m", "benchmarks.importing", environment=environment)
            for _ in range(min(rounds, 5))
        ]
    others, ours = ([run[key] for run in found] for key in ("others", "tenantry"))
    times = {
        name: Measurement.of(name, "ms", [each[name] for each in modules if name in each])
        for name in modules[0]
    }
    slowest = sorted(times.values(), key=lambda each: each.median, reverse=True)
    return [
        Section(
            "Importing, in a fresh process",
            (
                Measurement.of("wrapt, pydantic and opentelemetry-api", "ms", others),
                Measurement.of("tenantry beyond them", "ms", ours),
            ),
            goals(min(ours)),
            ("The goal is compared with the best of the rounds: noise only adds.",),
        ),
        Section(
            f"Importing: the slowest {TOP} of {len(times)} modules that tenantry adds, by their own"
            " time in python -X importtime",
            tuple(slowest[:TOP]),
        ),
    ]


def time_modules() -> dict[str, float]:
    """Give each module that ``import tenantry`` loads its own milliseconds."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", TIMED],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    ours = done.stderr.partition(MARK)[2]
    return {
        name: int(microseconds) / 1000
        for microseconds, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", ours)
    }


def goals(best: float | None = None) -> tuple[Goal, ...]:
    name = "import of tenantry beyond its dependencies"
    return (unmeasured(name, "<= 25 ms") if best is None else at_most(name, 25, " ms", best),)


if __name__ == "__main__":
    print(json.dumps(time_modules()))
