"""What ``import tenantry`` adds to what wrapt, pydantic and opentelemetry-api cost together.

All bytecode is cached, as it is after an installation: in a folder of our own, because a working
copy may be read-only, or be told to keep none. Of pydantic counts what any declared model needs: it
loads half of itself when ``Field`` is first asked for.
"""

from __future__ import annotations

import tempfile

from benchmarks.processes import run_python
from benchmarks.results import Goal, Measurement, Section, at_most, unmeasured

PROGRAM = """
from time import perf_counter
begin = perf_counter()
import wrapt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from opentelemetry import context, trace
others = perf_counter()
import tenantry
end = perf_counter()
print('{"others": %f, "tenantry": %f}' % ((others - begin) * 1e3, (end - others) * 1e3))
"""


def measure(*, rounds: int) -> Section:
    with tempfile.TemporaryDirectory(prefix="tenantry-bench-") as bytecode:
        environment = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode}
        run_python("-c", PROGRAM, environment=environment)  # compiles
        found = [run_python("-c", PROGRAM, environment=environment) for _ in range(rounds)]
    others, ours = ([run[key] for run in found] for key in ("others", "tenantry"))
    return Section(
        "Importing, in a fresh process",
        (
            Measurement.of("wrapt, pydantic and opentelemetry-api", "ms", others),
            Measurement.of("tenantry beyond them", "ms", ours),
        ),
        goals(min(ours)),
        ("The goal is compared with the best of the rounds: noise only adds.",),
    )


def goals(best: float | None = None) -> tuple[Goal, ...]:
    name = "import of tenantry beyond its dependencies"
    return (unmeasured(name, "<= 25 ms") if best is None else at_most(name, 25, " ms", best),)
