"""Events: what may be recorded, their names and keys, and each compiled for the caller's path.

Pure values: nothing here knows of tenants, journals or databases.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final, cast

from pydantic import BaseModel, ConfigDict, PydanticUserError, ValidationError
from pydantic.alias_generators import to_camel, to_snake

from tenantry import payload
from tenantry.exceptions import InvalidEvent, TaxonomyError
from tenantry.interruptions import is_interruption
from tenantry.redaction import Redaction, Sensitive, sensitive_in
from tenantry.refusals import explain
from tenantry.schemas import (
    compile_dict,
    fields_of,
    is_scalar,
    plain_fields,
)
from tenantry.writers import make_writer, members_of, write_nothing

NAME = re.compile(r"[a-z][a-z0-9]*(?:[_.][a-z0-9]+)*")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
NAME_LIMIT: Final = 100

STARTED: Final = ("started",)
COMPLETED: Final = ("completed", "succeeded")
FAILED: Final = ("failed",)
"""What the names of an operation's phases end in, in the order in which they are looked for."""

RESERVED: Final = frozenset(
    {
        "tenant",
        "actor",
        "conn",
        "correlation",
        "fields",
        "result",
        "errors",
        "failed_if",
        "on_close",
        "occurred_at",
        "idempotency_key",
    }
)
"""Option names of ``emits`` and ``log_event``: data keys of such names go through ``fields``."""

COLUMN_KEYS: Final = {
    "error_code": "error_code",
    "errorCode": "error_code",
    "duration_ms": "duration_ms",
    "durationMs": "duration_ms",
}
"""Keys of a fact that fill a column of their own, in either spelling."""


def check_name(name: object, what: str) -> str:
    """Give back a well-formed name of an event or operation; ``TaxonomyError`` otherwise."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > NAME_LIMIT:
        raise TaxonomyError(
            f"{name!r:.120} is not {what}: names are lower-case words joined by underscores or "
            f"dots, begin with a letter, and have at most {NAME_LIMIT} characters, as in "
            "'ingest_completed'"
        )
    return name


class Event(BaseModel):
    """A declared event: subclass it, with a field for each key.

    The name is the class name in snake_case, or ``name=``; ``version=`` (1 to 32,767) is stored
    with each row. Fields are snake_case in Python and camelCase in storage. A field with a default
    is optional, and None is then left out::

        class InvoiceSent(Event, version=2):
            invoice_id: str
            amount: float | None = None

    With ``detect=False`` its texts are stored without being searched for e-mail addresses, keys,
    card numbers and the like. ``owner="billing"`` names who answers for it, in what ``tenantry
    taxonomy docs`` writes.

    Instances are frozen. Raises ``TaxonomyError`` at declaration for a malformed name, version or
    key, and for keys that would be stored alike.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
    )

    event_name: ClassVar[str] = ""
    event_version: ClassVar[int] = 1
    event_detect: ClassVar[bool] = True
    event_owner: ClassVar[str | None] = None

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        version: int | None = None,
        detect: bool | None = None,
        owner: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the options of the declaration, which pydantic hands on when the class is made."""
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        name: str | None = None,
        version: int | None = None,
        detect: bool | None = None,
        owner: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Check the declaration."""
        super().__pydantic_init_subclass__(**kwargs)
        cls.event_name = check_name(to_snake(cls.__name__) if name is None else name, "an event")
        if version is not None:
            cls.event_version = version
        if detect is not None:
            cls.event_detect = detect
        if owner is not None:
            cls.event_owner = owner
        _check_options(cls)
        stored: dict[str, str] = {}
        for field in cls.model_fields:
            key = stored_key(cls, field)
            if not _KEY.fullmatch(key):
                raise TaxonomyError(
                    f"{cls.__name__}.{field}: {key!r:.80} is not a key: keys are letters, digits "
                    "and underscores, and begin with a letter"
                )
            if key in stored:
                raise TaxonomyError(
                    f"{cls.__name__}: {stored[key]!r} and {field!r} would both be stored as "
                    f"{key!r}; rename one"
                )
            stored[key] = field
        for key, field in stored.items():
            if key in cls.model_fields and key != field:
                raise TaxonomyError(
                    f"{cls.__name__}: {field!r} would be stored as {key!r}, which is the name of "
                    "another field; rename one"
                )


def _check_options(event: type[Event]) -> None:
    """Raise for an option that an event is declared with, or inherits."""
    if type(event.event_detect) is not bool:
        raise TaxonomyError(f"{event.__name__}: detect={event.event_detect!r:.80} is not a bool")
    if not isinstance(event.event_owner, str | None):
        raise TaxonomyError(
            f"{event.__name__}: owner={event.event_owner!r:.80} is not a text: name the team that "
            "answers for the event"
        )
    if type(event.event_version) is not int or not 0 < event.event_version < 2**15:
        raise TaxonomyError(
            f"{event.__name__}: the version {event.event_version!r} is not between 1 and 32767"
        )


def stored_key(model: type[Event], field: str) -> str:
    """Give the key under which a field is stored."""
    info = model.model_fields[field]
    return info.serialization_alias or info.alias or field


class EventType:
    """A declared event, compiled for the caller's path."""

    __slots__ = (
        "_context",
        "_detect",
        "_freeze_fast",
        "_may_iterate",
        "_redaction",
        "_to_json",
        "_to_python",
        "_validate",
        "_write",
        "error_code_field",
        "fields",
        "fills_columns",
        "is_rewritten",
        "keys",
        "members",
        "model",
        "name",
        "plain_fields",
        "sensitive",
        "stored_keys",
        "suspects",
        "version",
    )

    is_open: ClassVar[bool] = False

    def __init__(self, model: type[Event], redaction: Redaction | None = None) -> None:
        """Look up what each call would look up again; ``TaxonomyError`` if incomplete."""
        try:
            model.model_rebuild()  # completes what was declared before the types that it names
        except (PydanticUserError, NameError) as error:
            raise TaxonomyError(f"{place_of(model)} is not completely declared: {error}") from error
        redaction = redaction or Redaction()
        self.model: type[Event] | None = model
        self.name = model.event_name
        self.version = model.event_version
        self.fields = tuple(model.model_fields)
        self.stored_keys = {field: stored_key(model, field) for field in self.fields}
        self.keys = {
            **{key: field for field, key in self.stored_keys.items()},
            **{field: field for field in self.fields},
        }
        """Every accepted spelling of a key, and the field that it means."""
        self.error_code_field = self.keys.get("errorCode")
        self.plain_fields = plain_fields(model)
        marks = sensitive_in(model.__pydantic_core_schema__)
        self.sensitive = _sensitive_fields(model, marks)
        """Fields that are marked ``Sensitive``, or hold what is, with the marks."""
        self.fills_columns = not self.keys.keys().isdisjoint(COLUMN_KEYS)
        self._validate = model.__pydantic_validator__.validate_python
        self._to_json = model.__pydantic_serializer__.to_json
        self._to_python = model.__pydantic_serializer__.to_python
        self._may_iterate = not is_scalar(model)
        self._redaction = redaction
        self._context = redaction if marks or self._may_iterate else None
        """For the serializers of marked fields, and of models that a field of any type may hold."""
        self._freeze_fast = compile_dict(model, self._context) or self._freeze_model
        self.members = members_of(model)
        """Its fields, where each can be written without pydantic."""
        self._write = write_nothing if self.members is None else make_writer(self.members)
        self._detect = model.event_detect
        self.suspects = redaction.prefilter(
            detect=self._detect, has_names=self._may_iterate or bool(marks)
        )
        """Says whether there may be anything to remove from JSON of a payload's, text or bytes."""
        self.is_rewritten = redaction.has_rule
        """Whether the application's own rule sees each payload."""

    def _freeze_model(self, values: Mapping[str, Any]) -> bytes:
        return self._to_json(
            self._validate(values, extra="ignore", by_name=True),
            by_alias=True,
            exclude_none=True,
            context=self._redaction,
        )

    def freeze(self, values: Mapping[str, Any], max_bytes: int) -> tuple[str, bool]:
        """Validate the values of fields and write them as JSON; also says whether any was cut.

        Values that are of no field of this event are passed over, and so are iterators, unread.
        Raises ``InvalidEvent`` whose detail names keys and reasons, never values.
        """
        text = self._write(values)
        if text is None or not text.isascii() or len(text) > max_bytes or self.suspects(text):
            return self._freeze_further(text, values, max_bytes)
        return text, False

    def _freeze_further(
        self, text: str | None, values: Mapping[str, Any], max_bytes: int
    ) -> tuple[str, bool]:
        """Do the same where that was not enough: by pydantic, and with what few payloads need."""
        if text is None:
            data = self._freeze_by_pydantic(values)
        else:
            try:
                data = text.encode()
            except UnicodeEncodeError:  # lone surrogates
                data = self._freeze_carefully(values)
        return self._check(data, max_bytes)

    def _check(self, data: bytes, max_bytes: int) -> tuple[str, bool]:
        if len(data) > max_bytes or self.suspects(data):
            return self._finish(data, max_bytes)
        return data.decode(), False

    def _freeze_by_pydantic(self, values: Mapping[str, Any]) -> bytes:
        if self._may_iterate:
            values = payload.without_iterators(values)
        try:
            return self._freeze_fast(values)
        except Exception as error:  # whatever a validator raises: the careful way says what
            if is_interruption(error):
                raise
            return self._freeze_carefully(values)

    def _finish(self, data: bytes, max_bytes: int) -> tuple[str, bool]:
        """Do what few payloads need: redact, make safe, cut."""
        fitted, cut = payload.fit(self.redact(data, max_bytes), max_bytes)
        # A huge text may have been cut before its secrets were, and now be short enough.
        return fitted.decode(), cut or (len(data) > max_bytes and payload.MARK in fitted)

    def redact(self, data: bytes, max_bytes: int) -> bytes:
        """Remove from a payload's JSON what is not to be stored; raises ``InvalidEvent``."""
        return self._redaction.rewrite(
            data, self.name, max_bytes, detect=self._detect, names_count=self.is_open
        )

    def freeze_known(self, values: Mapping[str, Any], max_bytes: int) -> str:
        """Write values that are not validated, by their stored keys, as JSON within the limit."""
        data = payload.to_json(payload.plain(values, self._redaction))
        return self._finish(data, max_bytes)[0]

    def _freeze_carefully(self, values: Mapping[str, Any]) -> bytes:
        given = payload.without_iterators(values)
        safe = {key: _plain_or_same(value) for key, value in given.items()}
        try:
            model = self._validate(safe, extra="ignore", by_name=True)
        except ValidationError as error:
            raise InvalidEvent(f"{self.name}: {explain(error)}", detail=explain(error)) from None
        except Exception as error:
            if is_interruption(error):
                raise
            detail = f"a validator raised {type(error).__qualname__}"
            raise InvalidEvent(f"{self.name}: {detail}", detail=detail) from error
        return self._dump_carefully(model)

    def _dump_carefully(self, model: Any) -> bytes:
        """Write a model by its own serializers: they may be what masks a secret."""
        try:
            dumped = self._to_python(
                model,
                mode="json",
                by_alias=True,
                exclude_none=True,
                warnings=False,
                context=self._redaction,
            )
        except Exception as error:
            if is_interruption(error):
                raise
            detail = f"a value has no JSON form ({type(error).__qualname__})"
            raise InvalidEvent(
                f"{self.name}: {detail}", reason="unserializable", detail=detail
            ) from error
        return payload.to_json(payload.plain(dumped))

    def freeze_instance(self, event: Event, max_bytes: int) -> tuple[str, bool]:
        """Write an event that its class has validated; one made without that is validated now."""
        values = event.__dict__
        if (
            self.members is not None  # to look at the types again is the shortest way
            or not self.stored_keys.keys() <= values.keys()
            or (self._may_iterate and payload.holds_iterator(values))
        ):
            return self.freeze(values, max_bytes)
        try:
            if self._context is None:
                data = self._to_json(event, by_alias=True, exclude_none=True, warnings="error")
            else:
                data = self._to_json(
                    event,
                    by_alias=True,
                    exclude_none=True,
                    warnings="error",
                    context=self._context,
                )
        except Exception as error:  # whatever it is: validation says what
            if is_interruption(error):
                raise
            return self.freeze(values, max_bytes)
        return self._check(data, max_bytes)


def _sensitive_fields(
    model: type[Event], marks: frozenset[Sensitive]
) -> dict[str, frozenset[Sensitive]]:
    if not marks:
        return {}
    shared = sensitive_in(cast("Any", model.__pydantic_core_schema__).get("definitions"))
    found: dict[str, frozenset[Sensitive]] = {
        name: sensitive_in(field)
        | (shared if "definition-ref" in str(field) else frozenset[Sensitive]())
        for name, field in fields_of(model).items()
    }
    return {name: held for name, held in found.items() if held}


class OpenEventType(EventType):
    """An undeclared event that a pattern of ``open_taxonomy`` allows: any keys.

    Values are stored as given, but for what the pipeline's rules remove.
    """

    __slots__ = ()
    is_open = True

    def __init__(self, name: str, redaction: Redaction) -> None:
        """Declare nothing but the name."""
        self.model = None
        self.name = name
        self.version = 1
        self.fields = ()
        self.plain_fields = ()
        self.sensitive = {}
        self.stored_keys = {}
        self.keys = {}
        self.members = None
        self.error_code_field = None
        self.fills_columns = True
        self._redaction = redaction
        self._detect = True
        self.suspects = redaction.prefilter(detect=True, has_names=True)
        self.is_rewritten = redaction.has_rule

    def freeze(self, values: Mapping[str, Any], max_bytes: int) -> tuple[str, bool]:
        """Write the values as JSON."""
        given = payload.without_iterators(values)
        data = payload.to_json(
            payload.plain(
                {key: value for key, value in given.items() if value is not None}, self._redaction
            )
        )
        return self._check(data, max_bytes)


def _plain_or_same(value: Any) -> Any:
    """Make ids, paths, enums and unsafe text what a text field takes; leave the rest alone."""
    try:
        return payload.plain(value, keep_models=True)
    except InvalidEvent:
        return value


def place_of(model: type[Event] | None) -> str:
    """Say where an event is declared."""
    return "an open event" if model is None else f"{model.__module__}.{model.__qualname__}"
