"""Sampling: what is kept, with its weight.

A decision depends on the key's value alone, so that it is the same in every process and version.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil
from typing import Literal

from tenantry.exceptions import ConfigurationError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Keep a share of an operation's or a fact's events.

    ``rate`` is the share, more than 0 and at most 1, and is stored with each kept row. ``key``
    names the data key by whose value it is decided: all events with one value are kept or none.
    Without a key, or where an event lacks it, each operation (or fact) is decided by its own id.
    Failed events are always kept, at rate 1, unless a ``Budget`` limits them or their process died:
    then they are sampled as their start was.
    """

    rate: float
    key: str | None = None
    _below: bytes = field(init=False, repr=False, compare=False)
    """What the digests of all that is kept are less than."""

    def __post_init__(self) -> None:
        """Check the rate."""
        try:
            rate = float(self.rate)
        except (TypeError, ValueError):
            rate = 0.0
        if not 0 < rate <= 1:
            raise ConfigurationError(
                f"a sampling rate of {self.rate!r} is not possible: it is the share to keep, more "
                "than 0 and at most 1. To emit nothing, leave the event out of the taxonomy"
            )
        object.__setattr__(self, "rate", rate)  # a Fraction or a Decimal is no JSON number
        below = ceil(rate * 2.0**64).to_bytes(9, "big")  # of rate 1, that is 2**64
        object.__setattr__(self, "_below", b"\xff" * 9 if below[0] else below[1:])

    def decide(self, value: object, own_id: str) -> bool:
        """Decide by the key's value, or by the operation's or fact's own id without one."""
        if value is None:
            return self.keeps(own_id)
        try:
            return self.keeps(value)
        except Exception:  # noqa: BLE001  # the value's own __str__
            return self.keeps(own_id)

    def keeps(self, value: object) -> bool:
        """Decide: the first 8 bytes of BLAKE2b of the value's text are below rate · 2**64."""
        return blake2b(str(value).encode("utf-8", "surrogatepass")).digest() < self._below


@dataclass(frozen=True, slots=True)
class Budget:
    """Keep about ``per_second`` events of each tenant, or of each name, in each process.

    ``per`` says of what: ``"tenant"`` or ``"name"``, which is that of the operation or fact. What
    is above it is sampled: the rate of ten seconds follows from the ten seconds before, and is
    stored with each kept row, so that sums of ``1 / sample_rate`` stay right. Failed events have
    the same budget again, for themselves alone. Events that are written with ``conn=`` have none.
    """

    per_second: float
    per: Literal["tenant", "name"] = "tenant"

    def __post_init__(self) -> None:
        """Check both."""
        try:
            events = float(self.per_second)
        except (TypeError, ValueError):
            events = 0.0
        if not 0 < events < float("inf"):
            raise ConfigurationError(
                f"a budget of {self.per_second!r:.80} events a second is not possible: give a "
                "number of more than 0. To emit nothing, leave the event out of the taxonomy"
            )
        if self.per not in {"tenant", "name"}:
            raise ConfigurationError(
                f'a budget per {self.per!r:.80} is unknown; it is per "tenant" or per "name"'
            )
        object.__setattr__(self, "per_second", events)
