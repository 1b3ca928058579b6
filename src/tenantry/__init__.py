"""Business events of multi-tenant applications, kept exactly once in your own PostgreSQL."""

from tenantry.configuring import aflush, ashutdown, configure, flush, shutdown, stats
from tenantry.context import (
    PLATFORM,
    Operation,
    Scope,
    current_operation,
    current_scope,
)
from tenantry.exceptions import TenantryError
from tenantry.executors import ContextExecutor, propagate
from tenantry.facts import alog_event, log_event
from tenantry.instrument import emits
from tenantry.pipeline import Pipeline
from tenantry.propagation import extract, inject
from tenantry.redaction import Sensitive
from tenantry.registry import Taxonomy
from tenantry.report import Drop, FlushReport, Stats
from tenantry.sampling import Budget, Sampling
from tenantry.scopes import bind_tenant, reset, tenant
from tenantry.taxonomy import Event
from tenantry.threads import instrument_threads, uninstrument_threads

__all__ = [
    "PLATFORM",
    "Budget",
    "ContextExecutor",
    "Drop",
    "Event",
    "FlushReport",
    "Operation",
    "Pipeline",
    "Sampling",
    "Scope",
    "Sensitive",
    "Stats",
    "Taxonomy",
    "TenantryError",
    "aflush",
    "alog_event",
    "ashutdown",
    "bind_tenant",
    "configure",
    "current_operation",
    "current_scope",
    "emits",
    "extract",
    "flush",
    "inject",
    "instrument_threads",
    "log_event",
    "propagate",
    "reset",
    "shutdown",
    "stats",
    "tenant",
    "uninstrument_threads",
]

__version__ = "0.1.0"
