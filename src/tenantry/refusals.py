"""Refusals: why pydantic refuses an event, in texts that hold nothing of what was given."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """Say which fields are wrong, and why, in texts that hold nothing of what was given.

    Of a place only the field is told: the parts behind it are keys of what was given. Pydantic's
    own problems have a URL, those of an application's validators do not.
    """
    problems: dict[str, None] = {}
    for problem in error.errors(include_context=False, include_input=False):
        kind = problem["type"]
        is_known = "url" in problem and kind in _QUOTES_NO_INPUT
        text = problem["msg"] if is_known else _OWN_VALIDATORS.get(kind, f"refused ({kind})")
        problems[f"{problem['loc'][0] if problem['loc'] else 'event'}: {text}"] = None
    return "; ".join(problems)[:500]


_OWN_VALIDATORS: Final = {
    "value_error": "a validator raised ValueError",
    "assertion_error": "a validator raised AssertionError",
}
"""The text of an application's own exceptions is not repeated: it may hold the value."""

_QUOTES_NO_INPUT: Final = frozenset(
    {
        "missing",
        "model_type",
        "model_attributes_type",
        "dataclass_type",
        "none_required",
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "multiple_of",
        "finite_number",
        "too_short",
        "too_long",
        "iterable_type",
        "dict_type",
        "list_type",
        "tuple_type",
        "set_type",
        "frozen_set_type",
        "string_type",
        "string_unicode",
        "string_too_short",
        "string_too_long",
        "string_pattern_mismatch",
        "enum",
        "literal_error",
        "bool_type",
        "bool_parsing",
        "int_type",
        "int_parsing",
        "int_parsing_size",
        "int_from_float",
        "float_type",
        "float_parsing",
        "decimal_type",
        "decimal_parsing",
        "decimal_max_digits",
        "decimal_max_places",
        "decimal_whole_digits",
        "bytes_type",
        "bytes_too_short",
        "bytes_too_long",
        "uuid_type",
        "uuid_version",
        "date_type",
        "date_parsing",
        "date_from_datetime_inexact",
        "date_past",
        "date_future",
        "time_type",
        "time_parsing",
        "datetime_type",
        "datetime_parsing",
        "datetime_from_date_parsing",
        "datetime_past",
        "datetime_future",
        "timezone_naive",
        "timezone_aware",
        "time_delta_type",
        "time_delta_parsing",
        "is_instance_of",
        "union_tag_not_found",
        "url_type",
        "url_too_long",
        "url_scheme",
    }
)
"""Problems whose text in pydantic-core 2 (``errors/types.rs``) quotes the declaration at most."""
