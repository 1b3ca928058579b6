"""The ``tenantry`` command. Loads without typer and rich, and says when they are missing."""

from __future__ import annotations

import importlib
import sys
from typing import Final

from tenantry.exceptions import MissingExtra

__all__ = ["main"]

_EXTRAS: Final = (("typer", "cli"), ("rich", "cli"), ("psycopg", "binary"))
"""What is imported, and the extra that brings it: psycopg is always there, libpq is not."""


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit with its code."""
    for module, extra in _EXTRAS:
        try:
            importlib.import_module(module)
        except ImportError:
            sys.stderr.write(f"tenantry: {MissingExtra('the command tenantry', extra)}\n")
            sys.exit(2)
    sys.exit(importlib.import_module("tenantry.cli.app").run())
