"""Business events of multi-tenant applications, kept exactly once in your own PostgreSQL."""

from tenantry.context import (
    PLATFORM,
    Operation,
    Scope,
    bind_tenant,
    current_operation,
    current_scope,
    reset,
    tenant,
)
from tenantry.exceptions import TenantryError
from tenantry.facts import alog_event, log_event
from tenantry.instrument import emits
from tenantry.pipeline import (
    Pipeline,
    aflush,
    ashutdown,
    configure,
    flush,
    shutdown,
    stats,
)
from tenantry.report import Drop, FlushReport, Stats
from tenantry.sampling import Sampling
from tenantry.taxonomy import Event, Taxonomy

__all__ = [
    "PLATFORM",
    "Drop",
    "Event",
    "FlushReport",
    "Operation",
    "Pipeline",
    "Sampling",
    "Scope",
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
    "flush",
    "log_event",
    "reset",
    "shutdown",
    "stats",
    "tenant",
]

__version__ = "0.1.0"
