"""Options of a pipeline: what they may be. Each check raises ``ConfigurationError``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tenantry.exceptions import ConfigurationError
from tenantry.sampling import Budget, Sampling


def check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless the value is one of the choices."""
    if value not in choices:
        raise ConfigurationError(
            f"{option}={value!r:.80} is unknown; it is one of {', '.join(choices)}"
        )


def check_at_least(option: str, value: object, least: float) -> None:
    """Raise unless the value is a number, and large enough."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= least:
        raise ConfigurationError(
            f"{option}={value!r:.80} is not possible; give a number, {least} or more"
        )


def check_callable(option: str, value: object) -> None:
    """Raise unless the value is None or can be called."""
    if value is not None and not callable(value):
        raise ConfigurationError(f"{option}={value!r:.80} cannot be called; give a function")


def check_sampling(sampling: object) -> None:
    """Raise unless it is None or a mapping to ``Sampling``."""
    given: Any = {} if sampling is None else sampling
    if not isinstance(given, Mapping) or not all(isinstance(s, Sampling) for s in given.values()):
        raise ConfigurationError(
            f"sampling={sampling!r:.80} is not possible; give a mapping of names to Sampling, as "
            'in {"ingest": Sampling(0.5)}'
        )


def read_budgets(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """Give the budgets; raises where they are none, or two for the same."""
    given: Any = budgets
    read: tuple[Any, ...] = tuple(given) if isinstance(given, Iterable) else (None,)
    per = [budget.per for budget in read if isinstance(budget, Budget)]
    if len(per) < len(read) or len(set(per)) < len(per):
        raise ConfigurationError(
            f"budgets={budgets!r:.80} is not possible; give a list of Budget, at most one per "
            'tenant and one per name, as in [Budget(50), Budget(500, per="name")]'
        )
    return read
