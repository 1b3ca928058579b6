"""Settings: what ``configure()`` takes, from arguments, else from ``TENANTRY_*`` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from platformdirs import user_state_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tenantry.context import TenantType
from tenantry.exceptions import ConfigurationError
from tenantry.payload import MAX_BYTES

_KEYS: Final = ("redaction_keys", "signing_keys")
_SECRETS: Final = frozenset({"dsn", *_KEYS})


class Settings(BaseSettings):
    """Every option that has a text form; each is also a variable ``TENANTRY_<NAME>``.

    ``exporter``, ``taxonomy`` as objects, ``sampling``, ``budgets`` and the callbacks come from
    code alone.
    """

    model_config = SettingsConfigDict(
        env_prefix="TENANTRY_", extra="forbid", frozen=True, env_ignore_empty=True
    )

    dsn: str | None = Field(None, repr=False)
    service: str | None = None
    environment: str | None = None
    taxonomy: str | None = None
    open_taxonomy: Annotated[tuple[str, ...], NoDecode] = ()
    journal: Path | None = Field(default_factory=lambda: user_state_path("tenantry"))
    tenant_type: TenantType = "uuid"
    db_schema: str = Field("tenantry", validation_alias="TENANTRY_SCHEMA")
    strict: bool = False
    durability: Literal["process", "power"] = "process"
    on_full: Literal["drop", "wait"] = "drop"
    journal_max_bytes: int = Field(256 * 1024 * 1024, ge=4 * 1024 * 1024)
    max_payload_bytes: int = Field(MAX_BYTES, ge=64, le=512 * 1024)
    ship_interval: float = Field(0.25, gt=0, le=60)
    shutdown_timeout: float = Field(5.0, ge=0)
    signing_keys: Annotated[dict[str, str | bytes] | None, NoDecode] = Field(None, repr=False)
    redaction_keys: Annotated[dict[str, str | bytes] | None, NoDecode] = Field(None, repr=False)
    secret_names: Annotated[tuple[str, ...], NoDecode] = ()
    detect: bool = True
    fair_share: bool = True

    @field_validator("redaction_keys", "signing_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        if isinstance(value, str):
            parts = [part.partition(":") for part in value.split(",") if part.strip()]
            return {
                key.strip() if colon else "": secret.strip() for key, colon, secret in parts
            }  # what has no colon is a secret without an id
        return value

    @field_validator("open_taxonomy", "secret_names", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(pattern.strip() for pattern in value.split(",") if pattern.strip())
        return value


def read_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Merge given options with the environment's; raises ``ConfigurationError`` naming each."""
    given = dict(given)
    if "schema" in given:
        given["TENANTRY_SCHEMA"] = given.pop("schema")
    if given.get("dsn") == "":
        del given["dsn"]  # libpq would take it for the local socket
    try:
        settings = Settings(**given)
    except ValidationError as error:
        problems = "; ".join(
            f"{_place(problem) or 'settings'}{_given(problem)}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise ConfigurationError(
            f"configure() cannot use these settings: {problems}. They come from its arguments, or "
            "from the variables TENANTRY_* of the environment"
        ) from None
    options = settings.model_dump()
    options["schema"] = options.pop("db_schema")
    options["journal_given"] = "journal" in settings.model_fields_set
    return options


def _place(problem: Any) -> str:
    """Name the option, and the place within it where that is no secret."""
    places = problem["loc"][:1] if problem["loc"][0] in _KEYS else problem["loc"]
    return ".".join(str(place) for place in places)


def _given(problem: Any) -> str:
    """Show the value of an option, but not of those that hold secrets."""
    secret = not _SECRETS.isdisjoint(problem["loc"])
    return "" if secret or problem["type"] == "missing" else f"={problem['input']!r:.80}"
