"""What a server would import."""

import tenantry
from planted import facts, operations

__all__ = ["app", "facts", "operations"]


class app:  # noqa: N801
    name = "application"


def start() -> None:
    tenantry.configure(dsn="postgresql://nowhere.invalid/", taxonomy="planted.events")
