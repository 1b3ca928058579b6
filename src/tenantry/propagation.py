"""Passing a scope to another process: signed members of a W3C Baggage header, on any carrier.

Nothing is ever passed on by itself: `inject` is called by whoever knows where a message goes. What
comes in is untrusted until its signature holds, or the caller vouches for where it came from.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Final, cast
from urllib.parse import quote, unquote

from tenantry.context import (
    PLATFORM,
    Operation,
    RemoteOperation,
    Scope,
    canonical_tenant,
    current,
    current_operation,
    current_scope,
    leave,
    running,
    safe_text,
    shown,
)
from tenantry.exceptions import ConfigurationError, InvalidTenant, TenantNotSet
from tenantry.pipeline import Pipeline, current_pipeline, warn_unconfigured

BAGGAGE: Final = "baggage"
"""The header's name (W3C Baggage, 3.2)."""

TTL: Final = 300.0
LEEWAY: Final = 30.0
"""Seconds by which the clocks of two machines may differ."""

_VERSION: Final = "v1"
_PREFIX: Final = "tenantry."
_SIGNATURE: Final = "tenantry.signature"
_PARTS: Final = ("tenant", "actor", "correlation", "operation")
_OPERATION: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAX_HEADER: Final = 8192
"""Bytes that a baggage header may have (W3C Baggage, 3.3.2)."""

Setter = Callable[[Any, str, str], object]
Getter = Callable[[Any, str], "str | None"]


def set_item(carrier: Any, key: str, value: str) -> None:
    """Set a header, property or field of a mapping: the default of `inject`."""
    carrier[key] = value


def set_message_attribute(carrier: Any, key: str, value: str) -> None:
    """Set a message attribute of SQS or SNS."""
    carrier[key] = {"DataType": "String", "StringValue": value}


def get_item(carrier: Any, key: str) -> str | None:
    """Read what `extract` is given by default; several headers of a name are joined by commas.

    A mapping by name, in any case; WSGI's environ; pairs, as ASGI's headers; values as text, bytes,
    or SQS's message attributes.
    """
    pairs: Iterable[tuple[Any, Any]] = carrier
    if isinstance(carrier, Mapping):
        environ_key = "HTTP_" + key.upper().replace("-", "_")
        carrier = cast("Mapping[Any, Any]", carrier)  # type: ignore[redundant-cast]  # not for pyright
        pairs = [(key if name == environ_key else name, carrier[name]) for name in carrier]
    found = [_text(value) for name, value in pairs if (_text(name) or "").lower() == key]
    return ",".join(text for text in found if text) or None


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("latin-1")  # as WSGI and HTTP libraries read headers
    if isinstance(value, Mapping):
        attribute = cast("Mapping[str, Any]", value)
        value = attribute.get("StringValue", attribute.get("Value"))
    return value if isinstance(value, str) else None


def inject(
    carrier: Any,
    *,
    ttl: float = TTL,
    setter: Setter = set_item,
    getter: Getter = get_item,
) -> None:
    """Write the current scope and operation into a message that is about to be sent.

    Signed with the first of the configured ``signing_keys``, and good for ``ttl`` seconds (300): as
    long as the message may lie in a queue. Whoever reads the message can use it for that time, so
    send it to your own services only. Other members of a baggage header that is there are kept;
    without a scope, members of an earlier call are removed.

    Without keys it is unsigned, with a warning: only who vouches for it will take it. In strict
    mode ``ConfigurationError`` is raised for that, and ``TenantNotSet`` or ``InvalidTenant`` where
    there is no valid scope.
    """
    pipeline = current_pipeline()
    if pipeline is None:
        warn_unconfigured()
        return
    others = [
        member
        for member in (getter(carrier, BAGGAGE) or "").split(",")
        if member.strip() and not member.strip().startswith(_PREFIX)
    ]
    members = _members(pipeline, ttl)
    header = ",".join([*others, *members])
    if len(header.encode()) > _MAX_HEADER:
        pipeline.warn("baggage", "the scope is not passed on: the baggage header would be too long")
        return
    if header or getter(carrier, BAGGAGE) is not None:
        setter(carrier, BAGGAGE, header)


def _members(pipeline: Pipeline, ttl: float) -> list[str]:
    scope = current_scope()
    if scope is None:
        if pipeline.strict:
            raise TenantNotSet(
                "there is no tenant to pass on: call inject() within `with tenant(…)`"
            )
        return []
    try:
        tenant_id = str(canonical_tenant(scope.tenant, pipeline.tenant_type))
    except InvalidTenant:
        if pipeline.strict:
            raise
        return []
    operation = current_operation()
    parts = {
        "tenant": tenant_id,
        "actor": None if scope.actor is None else safe_text(scope.actor),
        "correlation": None if scope.correlation is None else safe_text(scope.correlation),
        "operation": None if operation is None or not operation.id else operation.id,
    }
    members = {name: quote(value, safe="") for name, value in parts.items() if value is not None}
    written = [f"{_PREFIX}{name}={value}" for name, value in members.items()]
    if not pipeline.signing_keys:
        problem = (
            "inject() without signing_keys: the tenant is passed on unsigned, and is ignored where "
            "nobody vouches for it. Give configure() signing_keys={'key id': 'secret'}"
        )
        if pipeline.strict:
            raise ConfigurationError(problem)
        pipeline.warn("signing_keys", "%s", problem)
        return written
    key_id, key = next(iter(pipeline.signing_keys.items()))
    expires = str(int(time.time() + ttl))
    signature = _sign(key, key_id, expires, members)
    return [*written, f"{_SIGNATURE}={_VERSION}.{key_id}.{expires}.{signature}"]


class Inbound:
    """A scope that came in with a message: ``with extract(headers):`` runs the block in it.

    Where it is not trusted, or there is none, the block runs without a tenant: not in the scope
    around it, either. ``problem`` says why, and is None where there is a trusted scope.
    """

    def __init__(
        self,
        *,
        tenant_id: object = None,
        actor: str | None = None,
        correlation: str | None = None,
        operation_id: str | None = None,
        problem: str | None = None,
    ) -> None:
        """Keep what was found."""
        self.tenant = tenant_id
        self.actor = actor
        self.correlation = correlation
        self.operation_id = operation_id
        self.problem = problem
        self._tokens: tuple[Token[Scope | None], Token[Operation | None]] | None = None

    @property
    def is_trusted(self) -> bool:
        """Whether there is a scope that may be entered."""
        return self.problem is None

    def __enter__(self) -> Scope | None:
        if self._tokens is not None:
            raise RuntimeError("this block is already entered; call extract() anew for each block")
        scope = operation = None
        if self.problem is None:
            scope = Scope(self.tenant, actor=self.actor, correlation=self.correlation)
            if self.operation_id is not None:
                operation = RemoteOperation(self.operation_id)
        self._tokens = current.set(scope), running.set(operation)
        return scope

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tokens, self._tokens = self._tokens, None
        if tokens is not None:
            leave(running, tokens[1])
            leave(current, tokens[0])


def extract(carrier: Any, *, vouched: bool = False, getter: Getter = get_item) -> Inbound:
    """Read the scope that `inject` wrote into a message.

    It is trusted when its signature is by one of the configured ``signing_keys`` and has not
    expired (30 s of leeway for clocks that differ), or when the caller vouches for the message
    (``vouched=True``): for a queue that only one's own services write to. Neither signature nor
    expiry is then asked for. Raises nothing for what others sent.
    """
    pipeline = current_pipeline()
    if pipeline is None:
        warn_unconfigured()
        return Inbound(problem="tenantry is not configured")
    try:
        return _read(pipeline, getter(carrier, BAGGAGE) or "", vouched=vouched)
    except _Untrusted as untrusted:
        problem = str(untrusted)
    if problem != _NOTHING:
        pipeline.warn(("inbound", problem), "an inbound tenant is ignored: %s", problem)
    return Inbound(problem=problem)


class _Untrusted(Exception):
    """Why what came in is not used."""


_NOTHING: Final = "there is no tenant in the message"


def _read(pipeline: Pipeline, header: str, *, vouched: bool) -> Inbound:
    members = _parse(header)
    if f"{_PREFIX}tenant" not in members:
        raise _Untrusted(_NOTHING)
    parts = {name: members[key] for name in _PARTS if (key := f"{_PREFIX}{name}") in members}
    if not vouched:
        _verify(pipeline.signing_keys, members.get(_SIGNATURE), parts)
    try:
        texts = {name: unquote(value, errors="strict") for name, value in parts.items()}
    except UnicodeDecodeError:
        raise _Untrusted("it is not UTF-8") from None
    given, operation = texts["tenant"], texts.get("operation")
    if given == str(canonical_tenant(PLATFORM, pipeline.tenant_type)):
        tenant_id: object = PLATFORM
    else:
        try:
            tenant_id = canonical_tenant(given, pipeline.tenant_type)
        except InvalidTenant:
            reason = f"{shown(given)} is no tenant id of type {pipeline.tenant_type}"
            raise _Untrusted(reason) from None
    if operation is not None and not _OPERATION.fullmatch(operation):
        operation = None
    return Inbound(
        tenant_id=tenant_id,
        actor=texts.get("actor"),
        correlation=texts.get("correlation"),
        operation_id=operation,
    )


def _parse(header: str) -> dict[str, str]:
    """Take our members out of a baggage header; of others nothing is known."""
    if len(header) > _MAX_HEADER:
        raise _Untrusted(f"the baggage header is longer than {_MAX_HEADER} bytes")
    found: dict[str, str] = {}
    for member in header.split(","):
        key, equals, value = member.partition(";")[0].partition("=")
        key = key.strip()
        if key.startswith(_PREFIX) and equals:
            if key in found:
                raise _Untrusted(f"{key} is there twice")
            found[key] = value.strip()
    return found


def _verify(keys: Mapping[str, bytes], signature: str | None, parts: Mapping[str, str]) -> None:
    if signature is None:
        raise _Untrusted("it is not signed")
    version, _, rest = signature.partition(".")
    if version != _VERSION:
        raise _Untrusted(f"its version {shown(version)} is unknown here; {_VERSION} is known")
    key_id, _, rest = rest.partition(".")
    expires, _, given = rest.partition(".")
    key = keys.get(key_id)
    if key is None:
        known = ", ".join(keys) or "none"
        raise _Untrusted(f"it is signed by the key {shown(key_id)}; signing_keys has {known}")
    made = _sign(key, key_id, expires, parts)
    if not hmac.compare_digest(made.encode(), given.encode("utf-8", "surrogatepass")):
        raise _Untrusted("its signature does not hold")
    if time.time() > int(expires) + LEEWAY:  # a number: it is signed
        raise _Untrusted("it has expired")


def _sign(key: bytes, key_id: str, expires: str, members: Mapping[str, str]) -> str:
    """Sign the members as they are written: what is read is what was signed."""
    listed = "&".join(f"{name}={members[name]}" for name in _PARTS if name in members)
    message = f"tenantry.{_VERSION}\n{key_id}\n{expires}\n{listed}".encode()
    return base64.urlsafe_b64encode(hmac.digest(key, message, hashlib.sha256)).decode().rstrip("=")
