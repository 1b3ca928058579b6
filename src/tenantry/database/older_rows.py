"""Rows of an older table, one by one: which become events, and which are refused, and why.

By the same rules as an event that is emitted. Knows no database.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from tenantry.context import canonical_tenant
from tenantry.database.host_tables import HostTable
from tenantry.database.installed import TenantType
from tenantry.database.partitions import add_months
from tenantry.exceptions import InvalidTenant, TaxonomyError
from tenantry.record import derived_id
from tenantry.taxonomy import check_name

_EPOCH: Final = "1970-01-01T00:00:00.000000+00:00"


class OldRow(NamedTuple):
    """A row of the older table."""

    id: int
    tenant: str | None
    name: str | None
    created_at: str | None
    """ISO 8601; None where it is null, infinite, or of no year from 1 to 9998."""
    has_no_time: bool
    data: str
    """JSON of an object."""


class NewEvent(NamedTuple):
    """A row that can become an event."""

    row: OldRow
    tenant: str
    json: str


class Judge:
    """Says what becomes of the rows of one table."""

    def __init__(self, source: HostTable, tenant_type: TenantType) -> None:
        """Remember the tenants that were read: few of many rows."""
        self._source = source
        self._tenant_type: TenantType = tenant_type
        self._read_tenant = lru_cache(maxsize=100_000)(self._canonical)

    def judge(self, row: OldRow) -> NewEvent | str:
        """Make the event of a row, or the JSON of the reject."""
        if row.tenant is None:
            return self.reject(row, "tenant_not_set", "tenant_id is null")
        tenant = self._read_tenant(row.tenant)
        if tenant is None:
            detail = f"{row.tenant[:80]!r} is reserved, or no tenant id of type {self._tenant_type}"
            return self.reject(row, "invalid_tenant", detail)
        if row.has_no_time:
            return self.reject(row, "occurred_at_missing", "created_at is null", tenant=tenant)
        if row.created_at is None:
            detail = "created_at is infinite, or of no year from 1 to 9998"
            return self.reject(row, "occurred_at_invalid", detail, tenant=tenant)
        event_json = (
            f'{{"id":"{self._id_of(row)}","tenant_id":{json.dumps(tenant)},'
            f'"name":{json.dumps(row.name)},"created_at":"{row.created_at}","data":{row.data}}}'
        )
        try:
            check_name(row.name, "the name")
        except TaxonomyError:
            detail = "name is null" if row.name is None else f"{row.name[:100]!r} names no event"
            # Only the name is against it: `rejected retry` stores it under that name after all.
            whole = None if row.name is None else event_json
            return self.reject(row, "invalid", detail, tenant=tenant, event=whole)
        return NewEvent(row, tenant, event_json)

    def reject(
        self,
        row: OldRow,
        reason: str,
        detail: str,
        *,
        tenant: str | None = None,
        event: str | None = None,
    ) -> str:
        """Make the JSON of a reject, with the whole event where it may be stored after all."""
        kept: dict[str, Any] = {
            "id": self._id_of(row),
            "tenant_id": tenant,
            "name": row.name,
            "created_at": row.created_at or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "reason": reason,
            "detail": f"{self._source} {row.id}: {detail}",
        }
        whole = "" if event is None else f',"event":{event}'
        return f'{json.dumps(kept)[:-1]},"data":{row.data}{whole}}}'

    def _id_of(self, row: OldRow) -> str:
        return derived_id(row.created_at or _EPOCH, str(self._source), str(row.id))

    def _canonical(self, tenant: str) -> str | None:
        try:
            return str(canonical_tenant(tenant, self._tenant_type))
        except InvalidTenant:
            return None


def month_of(row: OldRow) -> datetime:
    """Give the first moment of a row's month in UTC, the form in which its time was read."""
    return add_months(datetime.fromisoformat(f"{row.created_at}"), 0)
