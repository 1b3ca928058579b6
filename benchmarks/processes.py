"""Fresh Python processes, each of which measures one thing once and prints it as JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 120.0
"""Seconds; none takes a tenth of it."""


def run_module(module: str, *arguments: str) -> dict[str, Any]:
    """Run ``python -m MODULE`` from the root of the repository; its output is one JSON object."""
    return run_python("-m", module, *arguments)


def run_python(*arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run Python; settings of the interpreter and of OpenTelemetry are not inherited."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "OTEL_")) or key == "PYTHONDONTWRITEBYTECODE"
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=TIMEOUT,
        cwd=ROOT,
        env={
            **inherited,
            # This working copy, and not one that happens to be installed.
            "PYTHONPATH": str(ROOT / "src"),
            # Once installed, it would take part in each model of pydantic, and so in Tenantry's.
            "PYDANTIC_DISABLE_PLUGINS": "logfire-plugin",
            **(environment or {}),
        },
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
