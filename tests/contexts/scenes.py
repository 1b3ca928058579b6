"""What tests of contexts share: two tenants, one event, and who is current."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

from tenantry import current_scope, log_event

A = "018f6f0e-0000-7000-8000-00000000000a"
B = "018f6f0e-0000-7000-8000-00000000000b"
SAAS = "tenantry.taxonomies.saas"


def happen(name: str = "m") -> str | None:
    return log_event("quota_exceeded", quota_type=name, limit=1, attempted=2)


def tenant_now() -> object:
    scope = current_scope()
    return scope and scope.tenant


def in_child(check: Callable[[], object]) -> int:
    """Run in a forked process; its status is 0 when nothing was raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check()
            status = 0
        except BaseException:  # noqa: BLE001  # told to the parent by the status
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]
