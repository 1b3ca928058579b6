"""Keys with ids, as options give them: the first is used, the others are still understood."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast

from tenantry.exceptions import ConfigurationError

_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
LEAST_SECRET: Final = 32
"""Bytes: as long as the output of the hash (RFC 2104, section 3)."""


def read_keys(option: str, keys: object) -> dict[str, bytes]:
    """Read an option of keys by their ids; raises ``ConfigurationError``.

    Errors show neither secrets nor ids: the two are easily swapped.
    """
    if not isinstance(keys, Mapping):
        raise ConfigurationError(
            f"{option} is a {type(keys).__name__}; give a mapping of key ids to secrets, as "
            'in {"2026-11": secret}, the one to use first'
        )
    read: dict[str, bytes] = {}
    given = cast("Mapping[object, object]", keys)
    for place, (key_id, secret) in enumerate(given.items(), 1):
        if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
            raise ConfigurationError(
                f"{option}: an id is 1 to 32 letters, digits, hyphens and underscores, as in "
                '{"2026-11": secret}, and one that was given is not'
            )
        data = secret.encode() if isinstance(secret, str) else secret
        if not isinstance(data, bytes) or len(data) < LEAST_SECRET:
            size = (
                f"has {len(data)} bytes" if isinstance(data, bytes) else "is neither text nor bytes"
            )
            raise ConfigurationError(
                f"{option}: secret number {place} {size}; it takes {LEAST_SECRET} or "
                "more. Make one by: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        read[key_id] = data
    return read
