"""Redaction: what of a payload is removed or pseudonymised before anything is written.

Owns ``Sensitive`` and a pipeline's rules. Works on the finished JSON: an event in which nothing is
suspicious pays for one search of it.
"""

from __future__ import annotations

import hmac
import json
import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, cast

from pydantic import (
    GetCoreSchemaHandler,
    SecretStr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
)
from pydantic_core import CoreSchema, core_schema, from_json, to_json

from tenantry import payload
from tenantry.context import safe_text, shown
from tenantry.detectors import (
    SECRET,
    SECRET_NAMES,
    clean,
    is_secret_name,
    make_prefilter,
    normalize_name,
)
from tenantry.exceptions import ConfigurationError, InvalidEvent, TaxonomyError
from tenantry.keys import read_keys

logger = logging.getLogger("tenantry")

Redact = Callable[[str, str, Any], Any]
"""The application's own rule: of the event's name, the key's path and the value; gives a value."""

MASK: Final = "***"
_MOST_SHOWN: Final = 4
_DROP: Final = "\ue000dropped\ue000"
"""What a dropped value is written as, and found by, before its key is removed."""

_HASH_BYTES: Final = 16
_TEXT_READ: Final = 4096
_READ_BEYOND: Final = 1024
"""Characters read beyond a limit, so that a secret across it is known for one."""


@dataclass(frozen=True, slots=True)
class Sensitive:
    """Mark a field whose value is not stored as it is: ``Annotated[str, Sensitive("hash")]``.

    - ``drop``: the key is not stored
    - ``mask``: ``***`` is stored; with ``last=4``, and the last four characters where the text is
      three times as long
    - ``hash``: a keyed hash is stored, by which equal values can be joined:
      ``h1.<id of the key>.<HMAC-SHA256, 16 bytes, base64url>``. Needs ``redaction_keys=`` in
      ``configure()``; without it the key is not stored

    Of events, models within them, and models in open payloads. The instance keeps its value, and so
    does its own ``model_dump``. Raises ``TaxonomyError`` for another word.
    """

    how: Literal["drop", "mask", "hash"]
    last: int = 0

    def __post_init__(self) -> None:
        """Check both."""
        if self.how not in {"drop", "mask", "hash"}:
            raise TaxonomyError(f"Sensitive({shown(self.how)}) is unknown: give drop, mask or hash")
        most = _MOST_SHOWN if self.how == "mask" else 0
        if type(self.last) is not int or not 0 <= self.last <= most:
            raise TaxonomyError(
                f"Sensitive({self.how!r}, last={shown(self.last)}) is not possible: a mask shows 0 "
                "to 4 last characters, and the others none"
            )

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Have pydantic write the field by ``write``."""
        schema = handler(source)
        write = core_schema.wrap_serializer_function_ser_schema(
            self.write, schema=schema, info_arg=True
        )
        return cast("CoreSchema", {**schema, "serialization": write})

    def write(
        self, value: Any, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> Any:
        """Give what is written: for Tenantry as marked, for the application as it is."""
        rules: object = info.context
        if not isinstance(rules, Redaction):
            return handler(value)
        if value is None:
            return None
        if self.how == "drop":
            return _DROP
        if self.how == "mask" and not self.last:
            return MASK
        # pydantic writes its secrets as stars, which are all alike.
        given: Any = value.get_secret_value() if isinstance(value, SecretStr) else handler(value)
        if not isinstance(given, str):
            given = from_json(to_json(given))
        text = given if isinstance(given, str) else to_json(given).decode()
        if self.how == "mask":
            return MASK + (text[-self.last :] if len(text) >= 3 * self.last else "")
        return rules.pseudonym(text)


def sensitive_in(schema: object) -> frozenset[Sensitive]:
    """Collect the marks within a schema of pydantic's."""
    found: set[Sensitive] = set()
    pending = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            members = cast("dict[str, Any]", part)
            owner = getattr(members.get("function"), "__self__", None)
            if isinstance(owner, Sensitive):
                found.add(owner)
            pending.extend(members.values())
        elif isinstance(part, (list, tuple)):
            pending.extend(cast("Iterable[object]", part))
    return frozenset(found)


def pseudonyms(value: str, keys: Mapping[str, str | bytes]) -> list[str]:
    """Give what ``Sensitive("hash")`` stores of a text, by each key: to look its events up.

    ``keys`` are those of ``redaction_keys=``. Raises ``ConfigurationError`` for bad ones.
    """
    return [_pseudonym(value, *key) for key in read_keys("redaction_keys", keys).items()]


def _pseudonym(text: str, key_id: str, secret: bytes) -> str:
    digest = hmac.digest(secret, text.encode("utf-8", "surrogatepass"), sha256)[:_HASH_BYTES]
    return f"h1.{key_id}.{urlsafe_b64encode(digest).rstrip(b'=').decode()}"


class Redaction:
    """The rules of one pipeline. Immutable, but for the warnings that it has given."""

    def __init__(
        self,
        *,
        keys: Mapping[str, str | bytes] | None = None,
        secret_names: Iterable[str] = (),
        detect: bool = True,
        redact: Redact | None = None,
    ) -> None:
        """Check the options; raises ``ConfigurationError``."""
        if redact is not None and not callable(redact):
            raise ConfigurationError(
                f"redact={shown(redact)} cannot be called; give a function of event, path and value"
            )
        self._keys = list(read_keys("redaction_keys", {} if keys is None else keys).items())
        self._names = SECRET_NAMES | _check_names(secret_names)
        self.detect = detect
        self._redact = redact
        self._warned: set[str] = set()
        self._suspects_names = make_prefilter(self._names, _DROP, detect=False)
        self._suspects_all = make_prefilter(self._names, _DROP, detect=True)

    def __repr__(self) -> str:
        return f"Redaction(keys={[key_id for key_id, _ in self._keys]}, detect={self.detect})"

    @property
    def has_key(self) -> bool:
        """Whether values can be hashed."""
        return bool(self._keys)

    @property
    def has_rule(self) -> bool:
        """Whether the application's own rule sees each value."""
        return self._redact is not None

    def pseudonym(self, text: str) -> str:
        """Hash a text by the first key; without one, it is dropped, and warned of once."""
        if self._keys:
            return _pseudonym(text, *self._keys[0])
        self.warn_of_no_key()
        return _DROP

    def warn_of_no_key(self) -> None:
        """Log, once, that there is no key."""
        self.warn_once(
            "key",
            'fields are marked Sensitive("hash"), and there is no key: they are not stored. Give '
            "configure() redaction_keys={id: secret}, or set TENANTRY_REDACTION_KEYS",
        )

    def warn_once(self, key: str, message: str, *arguments: object) -> None:
        """Log a warning, once for each key (of which a hundred are kept)."""
        if key not in self._warned and len(self._warned) < 100:  # noqa: PLR2004
            self._warned.add(key)
            logger.warning(message, *arguments)

    def prefilter(self, *, detect: bool, has_names: bool) -> Callable[[str | bytes], bool]:
        """Give what says whether there may be anything to remove from JSON, NUL included."""
        if self._redact is not None:
            return _always
        if detect and self.detect:
            return self._suspects_all
        return self._suspects_names if has_names else _holds_nul

    def rewrite(
        self, data: bytes, event: str, limit: int, *, detect: bool, names_count: bool
    ) -> bytes:
        """Remove from a payload's JSON what is not to be stored.

        Names of keys count at any depth; ``names_count`` says whether at the top, too, where the
        keys of a declared event are its own. Of strings longer than ``limit`` no more is read than
        may be kept. Raises ``InvalidEvent``.
        """
        try:
            value: Any = json.loads(data)
            walk = _Walk(self, event, limit, detect and self.detect)
            return payload.to_json(walk.members(value, "", names_count=names_count))
        except (ValueError, RecursionError) as error:  # json's own limits
            if isinstance(error, InvalidEvent):
                raise
            raise payload.beyond_limits() from error

    def text(self, text: str) -> str:
        """Remove what looks like a secret from a text that is no payload; raises nothing."""
        if not self.detect:
            return text
        try:
            if not self._suspects_all(b" " + text[:_TEXT_READ].encode("utf-8", "replace")):
                return text
            return self.clean(text, _TEXT_READ)
        except Exception:  # noqa: BLE001  # a text's own methods
            return f"<{type(text).__name__}>"

    def short_text(self, value: object) -> str:
        """Make text for a column, of 200 characters at most; raises nothing."""
        return safe_text(self.text(value) if isinstance(value, str) else value)

    # Of one walk.

    def is_secret(self, name: str) -> bool:
        """Say whether a key's name says that its value is a secret."""
        return is_secret_name(name, self._names)

    def clean(self, text: str, limit: int) -> str:
        """Remove from a text what looks like a secret."""
        if len(text) <= limit:
            return clean(text, self._names)
        # A secret across the end of what is read lies within the part that is thrown away.
        head = clean(text[: limit + _READ_BEYOND], self._names)[:-_READ_BEYOND]
        return payload.marked(head, len(text) - len(head))

    def ask(self, event: str, path: str, value: Any) -> Any:
        """Ask the application's own rule; what it raises drops the value."""
        if self._redact is None:
            return value
        try:
            return payload.plain(self._redact(event, path, value))
        except Exception as error:  # noqa: BLE001  # the application's own code
            self.warn_once(
                f"redact {event} {type(error).__name__}",
                "redact= raised %s for the event %s: the value is not stored",
                type(error).__name__,
                event,
            )
            return None


@dataclass(frozen=True, slots=True)
class _Walk:
    """One way through a payload."""

    rules: Redaction
    event: str
    limit: int
    detect: bool

    def members(self, value: dict[str, Any], path: str, *, names_count: bool) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, item in value.items():
            if names_count and isinstance(item, bool):
                item_kept: Any = item  # has_password: true
            elif names_count and item is not None and self.rules.is_secret(name):
                item_kept = SECRET
            else:
                item_kept = self.value(item, f"{path}.{name}" if path else name)
                if item_kept is None and item is not None:
                    continue
            key = self.rules.clean(name, self.limit) if self.detect else name
            while key in kept:
                key += "'"
            kept[key] = item_kept
        return kept

    def value(self, value: Any, path: str) -> Any:
        """Give what is kept of a value; None where nothing is."""
        if isinstance(value, dict):
            return self.members(cast("dict[str, Any]", value), path, names_count=True)
        if isinstance(value, list):
            items = enumerate(cast("Iterable[Any]", value))
            kept = [(item, self.value(item, f"{path}.{i}")) for i, item in items]
            return [new for old, new in kept if new is not None or old is None]
        if value is None or value == _DROP:
            return None
        value = self.rules.ask(self.event, path, value)
        return self._text(value)

    def _text(self, value: Any) -> Any:
        if isinstance(value, str) and self.detect:
            return self.rules.clean(value, self.limit)
        if isinstance(value, dict):  # of the application's own rule
            return {k: self._text(v) for k, v in cast("dict[str, Any]", value).items()}
        if isinstance(value, list):
            return [self._text(v) for v in cast("Iterable[Any]", value)]
        return value


def _holds_nul(data: str | bytes) -> bool:
    return "\\u0000" in data if isinstance(data, str) else b"\\u0000" in data


def _always(_data: str | bytes) -> bool:
    return True


def _check_names(names: object) -> frozenset[str]:
    given = [names] if isinstance(names, str) else list(cast("Iterable[object]", names))
    normal = [normalize_name(name) if isinstance(name, str) else "" for name in given]
    if not all(normal):
        raise ConfigurationError(
            f"secret_names={shown(names)} is not possible; give names of keys, as in "
            '["pin", "mother_name"]: letters and digits count'
        )
    return frozenset(normal)
