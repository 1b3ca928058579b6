"""What programs share that are started by servers, and so take no arguments: their environment."""

import os

from tenantry import Pipeline, configure, log_event

TENANT = "018f6f0e-0000-7000-8000-000000000001"


def configured() -> Pipeline:
    """Configure as an application does at import."""
    return configure(
        dsn=os.environ["CHAOS_DSN"],
        journal=os.environ["CHAOS_JOURNAL"],
        open_taxonomy=["tick"],
        service="chaos",
        ship_interval=0.02,
    )


def note(line: str | None) -> None:
    if line is not None:
        file = os.open(os.environ["CHAOS_ACKNOWLEDGED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{line}\n".encode())
        os.close(file)


def tick(**data: object) -> str | None:
    event_id = log_event("tick", tenant=TENANT, **data)
    note(event_id)
    return event_id
