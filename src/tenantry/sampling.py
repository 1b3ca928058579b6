"""Sampling: what is kept, with its weight.

A decision depends on the key's value alone, so that it is the same in every process and version.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from tenantry.exceptions import ConfigurationError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Keep a share of an operation's or a fact's events.

    ``rate`` is the share, more than 0 and at most 1, and is stored with each kept row. ``key``
    names the data key by whose value it is decided: all events with one value are kept or none.
    Without a key, or where an event lacks it, each operation (or fact) is decided by its own id.
    Failed events are always kept, at rate 1.
    """

    rate: float
    key: str | None = None

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
        digest = blake2b(str(value).encode("utf-8", "surrogatepass"), digest_size=64).digest()
        return int.from_bytes(digest[:8], "big") < self.rate * 2.0**64
