"""Configuring: ``configure()``, and what is asked of the pipeline that it made."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from types import ModuleType
from typing import Any, Literal

from tenantry.context import TenantType
from tenantry.exceptions import ConfigurationError
from tenantry.exporters import Exporter
from tenantry.options import check_sampling, read_budgets
from tenantry.pipeline import Pipeline, configure_with, current_pipeline
from tenantry.redaction import Redact
from tenantry.registry import Taxonomy
from tenantry.report import Drop, FlushReport, Stats
from tenantry.sampling import Budget, Sampling
from tenantry.taxonomy import Event


class _Unset(Enum):
    """Marks an option that was not given, where None is a value."""

    UNSET = "unset"


def configure(
    *,
    dsn: str | None = None,
    exporter: Exporter | None = None,
    service: str | None = None,
    environment: str | None = None,
    taxonomy: str | ModuleType | Taxonomy | Iterable[type[Event]] | None = None,
    open_taxonomy: str | Iterable[str] | None = None,
    journal: str | os.PathLike[str] | Literal[_Unset.UNSET] | None = _Unset.UNSET,
    tenant_type: TenantType | None = None,
    schema: str | None = None,
    strict: bool | None = None,
    sampling: Mapping[str, Sampling] | None = None,
    budgets: Iterable[Budget] = (),
    fair_share: bool | None = None,
    durability: Literal["process", "power"] | None = None,
    on_full: Literal["drop", "wait"] | None = None,
    journal_max_bytes: int | None = None,
    max_payload_bytes: int | None = None,
    ship_interval: float | None = None,
    shutdown_timeout: float | None = None,
    on_drop: Callable[[Sequence[Drop]], object] | None = None,
    signing_keys: Mapping[str, str | bytes] | None = None,
    redaction_keys: Mapping[str, str | bytes] | None = None,
    secret_names: Iterable[str] | None = None,
    detect: bool | None = None,
    redact: Redact | None = None,
) -> Pipeline:
    """Set up the pipeline of this process, and give it back.

    Options; each but ``exporter``, ``sampling``, ``on_drop`` and ``redact`` may come from the
    environment instead, as ``TENANTRY_<NAME>``:

    - ``exporter``: where events go; default: PostgreSQL at ``dsn``
    - ``taxonomy``: the declared events: a module or its dotted name, ``Event`` classes, or a
      ``Taxonomy``
    - ``sampling``: ``{operation or event name: Sampling(rate, key)}``; default: everything is kept
    - ``budgets``: ``Budget`` per tenant and per name, above which events are sampled; default: none
    - ``fair_share``: whether tenants that use more than their share of the journal are sampled once
      half of it is used; default True
    - ``dsn``: a libpq connection string; ``"embedded"`` starts a PostgreSQL of its own (extra
      ``embedded``), migrated, for trying things out
    - ``service``, ``environment``: stored with each row
    - ``open_taxonomy``: shell patterns of event names that need no declaration
    - ``journal``: the directory of journals; ``None`` keeps events in memory until they are sent.
      Default: the user's state directory; in memory for an exporter other than PostgreSQL's
    - ``tenant_type``: ``uuid`` (default), ``bigint`` or ``text``, as migrated; ``schema``: default
      ``tenantry``
    - ``strict``: raise on mistakes, and now when the database is not ready; default False
    - ``durability``: ``process`` (default) or ``power``: also sync to disk every 50 ms
    - ``on_full``: ``drop`` (default), or ``wait`` up to a second when the journal is full
    - ``journal_max_bytes``: 256 MiB; ``max_payload_bytes``: 2,048
    - ``ship_interval``: seconds between looks for new events, 0.25; ``shutdown_timeout``: seconds,
      5.0
    - ``on_drop``: called with a list of ``Drop`` from the shipper's thread, within seconds, when
      events were dropped; what it raises is logged. It must not block for long
    - ``signing_keys``: ``{key id: secret}`` for `tenantry.propagation`; the first signs, all are
      accepted. As a variable: ``id:secret,id:secret``
    - ``redaction_keys``: ``{id: secret of 32 bytes or more}`` for ``Sensitive("hash")``; the first
      is used
    - ``secret_names``: further names of keys whose values are removed, beside ``password`` and its
      like
    - ``detect``: whether texts are searched for e-mail addresses, keys, card numbers and the like;
      default True
    - ``redact``: called with the event's name, the key's path and each value, gives what is stored,
      None for nothing; what it raises leaves the value out

    Again with the same settings it gives the same pipeline. Raises ``AlreadyConfigured`` with other
    settings, ``ConfigurationError`` for bad ones, ``TaxonomyError``, and ``MissingExtra``. Does not
    connect: a database that is away is no reason not to start (in strict mode it is, and an
    ``embedded`` one is started).
    """
    # pydantic-settings is loaded by those who configure, not by every import of tenantry.
    settings = importlib.import_module("tenantry.settings")
    given: dict[str, Any] = {
        "dsn": dsn,
        "service": service,
        "environment": environment,
        "open_taxonomy": open_taxonomy,
        "tenant_type": tenant_type,
        "schema": schema,
        "strict": strict,
        "durability": durability,
        "on_full": on_full,
        "journal_max_bytes": journal_max_bytes,
        "max_payload_bytes": max_payload_bytes,
        "ship_interval": ship_interval,
        "shutdown_timeout": shutdown_timeout,
        "signing_keys": None if signing_keys is None else dict(signing_keys),
        "redaction_keys": redaction_keys,
        "secret_names": secret_names,
        "detect": detect,
        "fair_share": fair_share,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if journal is not _Unset.UNSET:
        given["journal"] = journal
    if isinstance(taxonomy, str):
        given["taxonomy"], taxonomy = taxonomy, None
    merged: dict[str, Any] = settings.read_settings(given)
    journal_given = merged.pop("journal_given")
    if exporter is not None and not journal_given:
        merged["journal"] = None
    merged["taxonomy"] = merged["taxonomy"] if taxonomy is None else taxonomy
    check_sampling(sampling)
    merged |= {"exporter": exporter, "sampling": dict(sampling or {})}
    merged["budgets"] = read_budgets(budgets)
    merged |= {"on_drop": on_drop, "redact": redact}
    return configure_with(merged)


def _configured_or_raise() -> Pipeline:
    pipeline = current_pipeline()
    if pipeline is None:
        raise ConfigurationError("nothing is configured yet; call tenantry.configure() first")
    return pipeline


def flush(timeout: float = 5.0) -> FlushReport:
    """Flush the current pipeline; see ``Pipeline.flush``."""
    return _configured_or_raise().flush(timeout)


async def aflush(timeout: float = 5.0) -> FlushReport:  # noqa: ASYNC109  # as flush()
    """Flush the current pipeline without blocking the event loop."""
    return await _configured_or_raise().aflush(timeout)


def shutdown(timeout: float | None = None) -> FlushReport:
    """Shut the current pipeline down; see ``Pipeline.shutdown``."""
    return _configured_or_raise().shutdown(timeout)


async def ashutdown(timeout: float | None = None) -> FlushReport:  # noqa: ASYNC109  # as shutdown()
    """Shut the current pipeline down without blocking the event loop."""
    return await _configured_or_raise().ashutdown(timeout)


def stats() -> Stats:
    """Read the counters of the current pipeline; see ``Stats``."""
    return _configured_or_raise().stats()
