"""Error codes: what is said of an operation that failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from tenantry.context import safe_text
from tenantry.results import NO_RESULT

CANCELLED: Final = "cancelled"


def code_of(
    error: BaseException | None,
    result: object,
    *,
    given: object,
    errors: Mapping[type[BaseException], str],
    failed_if: Callable[[Any], object] | None,
) -> object:
    """Find the code of a failure, or None for a success; the order is the documented one.

    ``given`` is what the body said. The code is as it was found: it is to be cleaned and cut. What
    it asks of the application (``failed_if``, the error's attributes) may raise.
    """
    if given is not None:
        return given
    if error is None:
        return None if failed_if is None else _code_of_result(result, failed_if)
    for kind, code in errors.items():
        if isinstance(error, kind):
            return code
    if isinstance(error, asyncio.CancelledError):
        return CANCELLED
    for attribute in ("error_code", "sqlstate"):
        own = getattr(error, attribute, None)
        if isinstance(own, str) and own:
            return own
    return error_type(error)


def _code_of_result(result: object, failed_if: Callable[[Any], object]) -> str | None:
    verdict = None if result is NO_RESULT else failed_if(result)
    if not verdict:
        return None
    return verdict if isinstance(verdict, str) else "failed"


def error_type(error: BaseException) -> str:
    """Give an exception's qualified type name, OpenTelemetry's ``error.type``.

    Builtins go by their bare name (semantic conventions 1.44, ``error.type``).
    """
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return safe_text(f"{kind.__module__}.{kind.__qualname__}")
