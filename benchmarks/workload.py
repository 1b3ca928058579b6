"""The events that are shipped, stored and read: a hundred tenants' runs of one operation."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from tenantry import emits


def tenant_id(number: int) -> str:
    """Make the id of a tenant, a UUIDv7 as a host's would be."""
    return str(UUID(int=(0x018F6F0E << 96) | (7 << 76) | (2 << 62) | number))


TENANTS = [tenant_id(number) for number in range(100)]
TENANT = TENANTS[1]
ACTOR = "user:42"
URL = "https://example.com/handbook"
TAXONOMY = "tenantry.taxonomies.saas"


@dataclass(slots=True)
class Report:
    docs: int
    chunks: int


REPORT = Report(3, 41)


@emits("ingest")
def ingest(source_type: str, url: str) -> Report:  # noqa: ARG001  # the arguments are what is recorded
    return REPORT
