"""What the help desk is told from outside: variables ``HELPDESK_*``."""

from functools import cache
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting; Tenantry's own (``TENANTRY_JOURNAL``, …) it reads for itself."""

    model_config = SettingsConfigDict(env_prefix="HELPDESK_", frozen=True)

    dsn: str
    """The database, with the help desk's tables and Tenantry's."""
    files: Path
    """Where uploaded documents lie, in a folder for each tenant."""
    stripe_api_key: SecretStr = SecretStr("")
    stripe_webhook_secret: SecretStr = SecretStr("")
    stripe_api: str = "https://api.stripe.com"
    public_url: str = "http://127.0.0.1:8000"
    """Where customers come back to after paying."""
    allow_private_addresses: bool = False
    """Whether web sources and endpoints may lie in this machine's own networks."""
    message_sample_rate: float = Field(1.0, gt=0, le=1)
    """The share of conversations whose messages are recorded as events."""
    min_confidence: float = 0.6
    """Below it, people take over."""
    max_body_bytes: int = 2 * 1024 * 1024
    max_document_bytes: int = 1024 * 1024
    fetch_timeout: float = 5.0
    """Seconds for a web source or for a tenant's endpoint."""
    poll_seconds: float = 0.5
    """How often an idle dispatcher looks for something to deliver."""
    retry_seconds: float = 1.0
    """Before the second attempt at a delivery; the further ones wait longer."""
    pool_size: int = 8


@cache
def settings() -> Settings:
    """Read the settings, once a process."""
    return Settings()  # pyright: ignore[reportCallIssue]  # from the environment
