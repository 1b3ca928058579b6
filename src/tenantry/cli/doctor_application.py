"""The doctor's look at an application: what importing it configures.

Importing is all that is done to it, which begins what importing it begins: its pipeline.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tenantry.database.doctor import Finding, advised
from tenantry.pipeline import Pipeline, current_pipeline


def examine_application(
    name: str, *, destination: str, tenant_type: str | None, root: Path
) -> list[Finding]:
    """Import ``module`` or ``module:attribute`` (a pipeline) and look at its pipeline."""
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, "")  # as `python -m` does: applications are seldom installed
    try:
        found: Any = importlib.import_module(module_name)
        for part in filter(None, attribute.split(".")):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the application raises
        return [_explain(name, error)]
    finally:
        sys.path.remove("")
    pipeline = found if isinstance(found, Pipeline) else current_pipeline()
    if pipeline is None:
        return [
            advised(
                "app_not_configured",
                name,
                "importing it calls no tenantry.configure(): its events go nowhere",
                "Name the module that configures, or module:attribute of a Pipeline",
            )
        ]
    try:
        return [*_check(name, pipeline, destination, tenant_type, root)]
    finally:
        pipeline.shutdown(0)


def _explain(name: str, error: BaseException) -> Finding:
    # Not its text: that may quote a DSN.
    last = traceback.extract_tb(error.__traceback__)[-1]
    return advised(
        "app_failed",
        name,
        f"{type(error).__name__} at {last.filename}:{last.lineno}",
        f"See the whole of it: python -c 'import {name.partition(':')[0]}'",
    )


def _check(
    name: str, pipeline: Pipeline, destination: str, tenant_type: str | None, root: Path
) -> Iterator[Finding]:
    stats = pipeline.stats()
    theirs = getattr(pipeline.exporter, "fingerprint", type(pipeline.exporter).__name__)
    if theirs != destination:
        yield advised(
            "app_other_destination",
            name,
            f"it sends to {theirs}, and the doctor looks at {destination}",
            "Give both the same DSN and schema",
        )
    if tenant_type is not None and pipeline.tenant_type != tenant_type:
        yield advised(
            "app_other_tenant_type",
            name,
            f"its tenant ids are {pipeline.tenant_type}, those of the schema {tenant_type}: its "
            "events are held",
            f"Configure it with tenant_type={tenant_type!r}",
        )
    if stats.mode == "memory":
        yield advised(
            "app_in_memory",
            name,
            "its journal is kept in memory: events that are not sent die with the process",
            "Give configure() a journal directory that it may write to",
        )
    elif stats.directory is not None and stats.directory.resolve() != root.resolve():
        yield advised(
            "app_other_journal",
            name,
            f"it keeps its journals in {stats.directory}, and the doctor looked in {root}",
            f"Pass --journal {stats.directory}",
        )
    if not len(pipeline.taxonomy):
        yield advised(
            "app_without_taxonomy",
            name,
            "it declares no event: all but those of open_taxonomy are rejected",
            "Give configure() a taxonomy",
        )
    if pipeline.strict:
        yield advised(
            "app_strict",
            name,
            "strict mode is on: a mistake in an event raises where it is emitted",
            "Keep it for development and tests",
        )
