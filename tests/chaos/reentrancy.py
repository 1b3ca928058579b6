"""Re-entrancy: events emitted from where Python calls back, amid an append or a flush."""

from __future__ import annotations

import json
from typing import Final

from tests.chaos.harness import Field, Truth, cell

GROUP: Final = "Re-entrancy"

_WAYS: Final = {
    "signal handlers": ("signal", "within an emission"),
    "__del__": ("__del__", "within an emission"),
    "weakref callbacks": ("weakref", "within an emission"),
    "atexit hooks registered before and after ours": ("atexit", None),
    "logging handlers": ("logging", "within an emission"),
    "sys.excepthook and threading.excepthook": ("excepthook", None),
    "audit hooks": ("audit", "within a flush"),
}


def _define(name: str, way: str, within: str | None) -> None:
    @cell(GROUP, name)
    def called_back(field: Field) -> Truth:
        count = field.scale.of(short=200, full=5_000)
        done = field.run(
            *("reentrant.py", field.dsn, field.journal, field.acknowledged, way, count),
            seconds=120,
        )
        assert done.code == (1 if way == "excepthook" else 0), (done.code, done.errors)
        seen = json.loads(done.output)
        if within is not None:
            assert seen[within] > 0, f"it never happened {within}: {seen}"
        # Three are emitted at exit: by the hook that is called before ours, and by that after.
        assert len(field.acknowledged_ids()) >= 2 * count + seen["calls"] + 3
        calls = seen["calls"] or 3
        rejected = {"unknown_event": seen["rejected"]} if seen["rejected"] else {}
        emission, flush = seen["within an emission"], seen["within a flush"]
        note = f"{emission} within an emission, {flush} within a flush" if within else ""
        return Truth(times=calls, rejected=rejected, note=note)


for _name, (_way, _within) in _WAYS.items():
    _define(_name, _way, _within)
