"""Settings: what ``configure()`` takes, from arguments, else from ``TENANTRY_*`` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_state_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tenantry.context import TenantType
from tenantry.exceptions import ConfigurationError
from tenantry.payload import MAX_BYTES


class Settings(BaseSettings):
    """Every option that has a text form; each is also a variable ``TENANTRY_<NAME>``.

    ``exporter``, ``taxonomy`` as objects, and ``sampling`` come from code alone.
    """

    model_config = SettingsConfigDict(
        env_prefix="TENANTRY_", extra="forbid", frozen=True, env_ignore_empty=True
    )

    dsn: str | None = None
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
    signing_keys: Annotated[dict[str, str] | None, NoDecode] = None

    @field_validator("open_taxonomy", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(pattern.strip() for pattern in value.split(",") if pattern.strip())
        return value

    @field_validator("signing_keys", mode="before")
    @classmethod
    def _split_pairs(cls, value: Any) -> Any:
        return _read_pairs(value) if isinstance(value, str) else value


def _read_pairs(text: str) -> dict[str, str]:
    pairs = [pair.strip().partition(":") for pair in text.split(",") if pair.strip()]
    return {key: value for key, _, value in pairs}


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
            f"{'.'.join(str(part) for part in problem['loc']) or 'settings'}"
            f"{_given(problem)}: {problem['msg']}"
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


def _given(problem: Any) -> str:
    """Show the value of an option, but no secret: a DSN may hold a password."""
    secret = not {"dsn", "signing_keys"}.isdisjoint(problem["loc"])
    return "" if secret or problem["type"] == "missing" else f"={problem['input']!r:.80}"
