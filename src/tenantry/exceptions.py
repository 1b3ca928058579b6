"""Every error that Tenantry raises.

The tree (each also derives from the builtin that a reader expects)::

    TenantryError
    ├── ConfigurationError (ValueError)
    │   ├── AlreadyConfigured
    │   └── MissingExtra (ImportError)
    ├── TaxonomyError (ValueError)
    │   ├── UnknownEvent (LookupError)
    │   └── UnknownOperation (LookupError)
    ├── InvalidEvent (ValueError)
    ├── TenantNotSet (LookupError)
    ├── InvalidTenant (ValueError)
    ├── UnsupportedCallable (TypeError)
    ├── UnsupportedConnection (TypeError)
    ├── JournalUnavailable (OSError)
    └── DatabaseError (RuntimeError)
        ├── DatabaseUnreachable (ConnectionError)
        ├── SchemaMissing (LookupError)
        ├── SchemaMismatch
        └── PrivilegeMissing (PermissionError)

Application code meets them in ``configure()``, at decoration, in ``strict`` mode and in the
command line. Outside strict mode the path of an event raises for two reasons only: a data key that
is the name of an option, and ``conn=``, whose errors are those of the caller's transaction.
"""

from __future__ import annotations


class TenantryError(Exception):
    """The root of all errors of this package."""


class ConfigurationError(TenantryError, ValueError):
    """A setting is missing, malformed or contradicts another."""


class AlreadyConfigured(ConfigurationError):
    """``configure()`` was called again with other settings."""


class MissingExtra(ConfigurationError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        """Name the feature and the extra that brings it."""
        self.feature = feature
        self.extra = extra
        super().__init__(
            f"{feature} needs the extra {extra!r}, which is not installed. "
            f"Install it with: pip install 'tenantry[{extra}]'"
        )


class TaxonomyError(TenantryError, ValueError):
    """A declaration of an event or of a taxonomy is not allowed."""


class UnknownEvent(TaxonomyError, LookupError):
    """No event of that name is declared."""


class UnknownOperation(TaxonomyError, LookupError):
    """An operation has no event at all in the taxonomy."""


class InvalidEvent(TenantryError, ValueError):
    """An event does not meet its declaration.

    Attributes:
        reason: one of the codes of ``rejected_events.reason``.
        detail: what is wrong, without the values of undeclared keys.
    """

    def __init__(self, message: str, *, reason: str = "invalid", detail: str = "") -> None:
        """Keep the reason and the detail beside the message."""
        self.reason = reason
        self.detail = detail or message
        super().__init__(message)


class TenantNotSet(TenantryError, LookupError):
    """An event was emitted outside every tenant scope."""


class InvalidTenant(TenantryError, ValueError):
    """A tenant id is not of the configured type."""


class UnsupportedCallable(TenantryError, TypeError):
    """``emits`` cannot wrap this kind of callable."""


class UnsupportedConnection(TenantryError, TypeError):
    """``conn=`` was given something that no event can be written over."""


class JournalUnavailable(TenantryError, OSError):
    """No journal can be written in the directory that was asked for."""

    def __str__(self) -> str:
        """Give the text alone; the number is on ``errno``."""
        return self.strerror or super().__str__()


class DatabaseError(TenantryError, RuntimeError):
    """The database refuses what Tenantry needs of it."""


class DatabaseUnreachable(DatabaseError, ConnectionError):
    """No connection to the database could be made."""


class SchemaMissing(DatabaseError, LookupError):
    """The schema, or a table or column of it, does not exist: the migrations have not run."""


class SchemaMismatch(DatabaseError):
    """The schema is not the one that was configured: its tenant type, or its version."""


class PrivilegeMissing(DatabaseError, PermissionError):
    """The connected role lacks a privilege."""
