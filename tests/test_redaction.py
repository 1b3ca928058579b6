"""Redaction: what is marked, named or looks like a secret is stored nowhere."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, field_validator

from tenantry import Event, Pipeline, Sensitive, emits, log_event, tenant
from tenantry.exceptions import ConfigurationError, TaxonomyError
from tenantry.exporters.console import ConsoleExporter
from tenantry.operation import find_phases
from tenantry.redaction import Redaction, pseudonyms
from tests.capturing import capture_events

ACME = "018f6f0e-0000-7000-8000-00000000000a"
KEYS = {"2026-11": "k" * 32, "2026-05": b"o" * 40}
HASH = "h1.2026-11.c0wFNl6FjspoH0dKdq46Sg"
"""HMAC-SHA256 of "a@b.co" under 32 times k, its first 16 bytes."""


class Person(BaseModel):
    name: str
    card: Annotated[str, Sensitive("mask", last=4)]
    email: Annotated[str, Sensitive("hash")] | None = None
    pin: Annotated[int | None, Sensitive("drop")] = None


class Paid(Event):
    card: Annotated[str, Sensitive("mask", last=4)]
    email: Annotated[str, Sensitive("hash")] | None = None
    note: Annotated[str, Sensitive("drop")] = "nothing"
    person: Person | None = None
    more: Any = None


class SignUpStarted(Event):
    email: Annotated[str, Sensitive("hash")]


class SignUpCompleted(Event):
    email: Annotated[str, Sensitive("mask")]
    user_id: str


class SignUpFailed(Event):
    email: Annotated[str, Sensitive("hash")]
    error_code: str


class Said(Event):
    text: str
    more: dict[str, Any] | None = None


class Verbatim(Event, detect=False):
    text: str
    more: dict[str, Any] | None = None


EVENTS = [Paid, SignUpStarted, SignUpCompleted, SignUpFailed, Said, Verbatim]
PERSON = Person(name="n", card="4111111111111111", email="a@b.co", pin=1234)
STORED_PERSON = {"name": "n", "card": "***1111", "email": HASH}


@pytest.fixture
def events():
    options: dict[str, Any] = {"open_taxonomy": "plugin_*", "redaction_keys": KEYS}
    with capture_events(EVENTS, strict=False, **options) as pipeline, tenant(ACME):
        yield pipeline


# Sensitive.


@pytest.mark.parametrize(
    "log",
    [
        lambda **data: log_event(Paid(**data)),
        lambda **data: log_event("paid", **data),
        lambda **data: log_event("paid", **data | {"card": 0x10F0CF064DD591DC7 % 10**16}),
    ],
    ids=["instance", "name", "carefully"],
)
def test_marked_fields_are_stored_as_marked(events, log):
    log(card="4111111111111111", email="a@b.co", note="n", person=PERSON, more=[{"p": PERSON}])
    data = events.records[0].data
    assert data["card"].startswith("***")
    assert (data["email"], data["person"]) == (HASH, STORED_PERSON)
    assert data["more"] == [{"p": STORED_PERSON}]
    assert "note" not in data


def test_instance_and_its_own_dump_keep_the_value(events):
    event = Paid(card="4111111111111111", email="a@b.co")
    log_event(event)
    assert (event.card, event.model_dump()["email"]) == ("4111111111111111", "a@b.co")
    assert json.loads(event.model_dump_json())["note"] == "nothing"


def test_results_set_and_arguments_are_stored_as_marked(events):
    @emits("sign_up")
    def sign_up(email: str) -> dict[str, str]:
        return {"user_id": "7", "email": "x@y.co"}

    sign_up("a@b.co")
    with emits("sign_up", email="a@b.co") as operation:
        operation.set(email="c@d.co", user_id="8")
    assert [record.data for record in events.records] == [
        {"email": HASH},
        {"email": "***", "userId": "7"},
        {"email": HASH},
        {"email": "***", "userId": "8"},
    ]


def test_marked_field_of_an_open_payload_is_stored_as_marked(events):
    log_event("plugin_ran", person=PERSON, people=[PERSON])
    assert events.records[0].data == {"person": STORED_PERSON, "people": [STORED_PERSON]}


def test_refused_event_keeps_only_the_type_of_a_marked_field(events):
    log_event("paid", card="4111111111111111", email="a@b.co", more=PERSON, tenant="nobody")
    (reject,) = events.rejected
    assert reject.data == {"more": STORED_PERSON}
    assert reject.other_keys == {"card": "str", "email": "str"}


def test_refused_event_keeps_no_value_that_a_shared_model_marks(events):
    class Both(Event):
        first: Person
        second: Person

    with capture_events([Both], strict=False, redaction_keys=KEYS) as pipeline, tenant("nobody"):
        log_event("both", first=PERSON, second=PERSON.model_dump())
    assert pipeline.rejected[0].data == {}


def test_abandoned_operation_takes_over_only_what_its_start_wrote_as_marked():
    class JobStarted(Event):
        email: str
        same: Annotated[str, Sensitive("hash")]

    class JobFailed(Event):
        email: Annotated[str, Sensitive("drop")]
        same: Annotated[str, Sensitive("hash")]

    with capture_events([JobStarted, JobFailed], redaction_keys=KEYS, detect=False) as pipeline:
        closing = json.loads(find_phases("job", pipeline).closing)
    assert closing["keys"] == ["same"]


def test_hash_is_pinned_and_every_key_gives_one():
    assert pseudonyms("a@b.co", KEYS)[0] == HASH
    assert pseudonyms("a@b.co", KEYS)[1].startswith("h1.2026-05.")
    assert pseudonyms("a@b.cp", KEYS)[0] != HASH


def test_numbers_are_hashed_and_masked_by_their_text():
    class Counted(Event):
        a: Annotated[int, Sensitive("hash")]
        b: Annotated[int, Sensitive("mask", last=2)]
        c: Annotated[list[str], Sensitive("hash")]

    with capture_events([Counted], redaction_keys=KEYS) as pipeline, tenant(ACME):
        log_event("counted", a=5, b=1234567, c=["x"])
    assert pipeline.records[0].data == {
        "a": pseudonyms("5", KEYS)[0],
        "b": "***67",
        "c": pseudonyms('["x"]', KEYS)[0],
    }


@pytest.mark.filterwarnings("error")
def test_marks_stand_in_unions_and_on_secrets_of_pydantic():
    class Mixed(Event):
        a: Annotated[str, Sensitive("hash")] | int
        b: Annotated[SecretStr, Sensitive("hash")]

    with capture_events([Mixed], redaction_keys=KEYS) as pipeline, tenant(ACME):
        log_event("mixed", a="a@b.co", b="a@b.co")
        log_event(Mixed(a=5, b=SecretStr("a@b.co")))
    first, second = (record.data for record in pipeline.records)
    assert first == {"a": HASH, "b": HASH}
    assert second["b"] == HASH
    assert Mixed.model_json_schema(mode="serialization")["properties"].keys() == {"a", "b"}


def test_short_text_shows_no_last_characters(events):
    log_event("paid", card="41111111111")
    assert events.records[0].data == {"card": "***"}


def test_hash_without_a_key_drops_and_warns_once(caplog):
    with capture_events([Paid], strict=False) as pipeline, tenant(ACME):
        log_event("paid", card="4", email="a@b.co")
        log_event("paid", card="4", email="a@b.co")
    assert [record.data for record in pipeline.records] == [{"card": "***"}] * 2
    assert caplog.text.count('fields are marked Sensitive("hash"), and there is no key') == 1


def test_hash_without_a_key_is_a_mistake_in_strict_mode():
    with pytest.raises(
        ConfigurationError, match=r'paid.email.*: marked Sensitive\("hash"\), and th'
    ):
        capture_events([Paid]).__enter__()


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: Sensitive("hide"), "Sensitive('hide') is unknown: give drop, mask or hash"),  # type: ignore[arg-type]
        (lambda: Sensitive("mask", last=9), "Sensitive('mask', last=9) is not possible"),
        (lambda: Sensitive("hash", last=4), "Sensitive('hash', last=4) is not possible"),
    ],
)
def test_other_marks_are_refused(make, text):
    with pytest.raises(TaxonomyError) as raised:
        make()
    assert text in str(raised.value)


SECRET = "hunter2" * 3


@pytest.mark.parametrize(
    "keys, text",
    [
        (SECRET, "redaction_keys is a str; give a mapping"),
        ({"id": SECRET}, "secret number 1 has 21 bytes; it takes 32 or more"),
        ({"id": 5}, "secret number 1 is neither text nor bytes"),
        ({SECRET: "id"}, "secret number 1 has 2 bytes"),
        ({SECRET * 2: "id"}, "redaction_keys: an id is 1 to 32 letters"),
        ({"": SECRET}, "redaction_keys: an id is 1 to 32 letters"),
    ],
)
def test_bad_keys_are_told_without_the_secret(keys, text):
    with pytest.raises(ConfigurationError) as raised:
        Redaction(keys=keys)
    assert text in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_rules_do_not_show_their_secrets():
    assert repr(Redaction(keys=KEYS)) == "Redaction(keys=['2026-11', '2026-05'], detect=True)"


# Names of keys.


def test_values_under_secret_names_are_removed_at_any_depth(events):
    log_event("plugin_ran", Password="x", a=[{"b": {"X-Api-Key": [1], "n": 1, "has_token": True}}])
    log_event("said", text="t", more={"db_password": 5, "tokens": 5, "secret": None})
    assert [record.data for record in events.records] == [
        {
            "Password": "[secret]",
            "a": [{"b": {"X-Api-Key": "[secret]", "n": 1, "has_token": True}}],
        },
        {"text": "t", "more": {"db_password": "[secret]", "tokens": 5, "secret": None}},
    ]


def test_declared_key_is_stored_whatever_its_name_is():
    class Used(Event):
        token: str

    with capture_events([Used]) as pipeline, tenant(ACME):
        log_event("used", token="first of the text")
    assert pipeline.records[0].data == {"token": "first of the text"}


def test_further_names_may_be_given():
    options: dict[str, Any] = {"open_taxonomy": "*", "secret_names": ["mother-name"]}
    with capture_events(None, **options) as pipeline, tenant(ACME):
        log_event("x", fields={"motherName": "m", "password": "p", "n": 1})
    assert pipeline.records[0].data == {"motherName": "[secret]", "password": "[secret]", "n": 1}


@pytest.mark.parametrize("names", [["pin", ""], ["--"], [5]])
def test_names_that_are_none_are_told(names):
    with pytest.raises(ConfigurationError, match=r"secret_names=.* give names of keys, as in"):
        Redaction(secret_names=names)


# Detectors.

TEXT = "from alice@example.com, card 4111 1111 1111 1111"
CLEAN = "from [email], card [card]"


def test_texts_are_cleaned_and_keys_too(events):
    log_event("said", text=TEXT, more={"alice@example.com": 1, "bob@example.com": TEXT})
    log_event("plugin_ran", text=TEXT)
    log_event(Said(text=TEXT))
    assert [record.data for record in events.records] == [
        {"text": CLEAN, "more": {"[email]": 1, "[email]'": CLEAN}},
        {"text": CLEAN},
        {"text": CLEAN},
    ]


def test_detectors_are_switched_off_for_one_event_but_names_count(events):
    log_event("verbatim", text=TEXT, more={"password": 1, "text": TEXT})
    assert events.records[0].data == {"text": TEXT, "more": {"password": "[secret]", "text": TEXT}}


def test_detectors_are_switched_off_for_all():
    with capture_events([Said], open_taxonomy="x", detect=False) as pipeline, tenant(ACME):
        log_event("said", text=TEXT)
        log_event("x", text=TEXT, password="p", error_code=TEXT)
    assert [record.data for record in pipeline.records] == [
        {"text": TEXT},
        {"text": TEXT, "password": "[secret]", "error_code": TEXT},
    ]
    assert pipeline.records[1].error_code == TEXT


def test_detect_is_a_bool():
    with pytest.raises(TaxonomyError, match="detect='no' is not a bool"):
        type("Odd", (Event,), {}, detect="no")


def test_error_codes_are_cleaned(events):
    class Refused(Exception):
        error_code = "refused alice@example.com"

    with pytest.raises(Refused), emits("sign_up", email="a"):
        raise Refused
    with emits("sign_up", email="a") as operation:
        operation.fail("token=abcdef")
    log_event("said", text="t", error_code="x" * 190 + " alice@example.com")
    codes = [record.error_code for record in events.records if record.error_code]
    assert codes == ["refused [email]", "token=[secret]", "x" * 190 + " [email]"]
    assert events.records[1].data["errorCode"] == "refused [email]"


def test_actor_and_correlation_are_ids_and_stored_as_given(events):
    with tenant(ACME, actor="alice@example.com", correlation="bob@example.com"):
        log_event("said", text="t")
    record = events.records[0]
    assert (record.actor_id, record.correlation_id) == ("alice@example.com", "bob@example.com")


def test_secret_across_the_cut_is_not_stored_in_part():
    for length in range(1, 90):
        text = "x " * length + "alice@example.com " + "y" * 300
        with capture_events([Said], max_payload_bytes=128) as pipeline, tenant(ACME):
            log_event("said", text=text)
        assert "alice" not in str(pipeline.records[0].data)


def test_cut_text_counts_all_that_is_gone(events):
    log_event("said", text="x" * 1_000_000)
    text = events.records[0].data["text"]
    head, _, gone = text.partition("…[+")
    assert len(head) + int(gone[:-1]) == 1_000_000
    assert events.stats().truncated == 1


# The application's own rule.


def test_own_rule_is_asked_for_each_value():
    asked = []

    def rule(event: str, path: str, value: Any) -> Any:
        asked.append((event, path, value))
        return value.upper() if isinstance(value, str) else value

    with capture_events([Said], redact=rule) as pipeline, tenant(ACME):
        log_event("said", text="t", more={"a": [1, "x"], "password": "p"})
    assert asked == [("said", "text", "t"), ("said", "more.a.0", 1), ("said", "more.a.1", "x")]
    assert pipeline.records[0].data == {
        "text": "T",
        "more": {"a": [1, "X"], "password": "[secret]"},
    }


@pytest.mark.parametrize("given_back", [None, b"bytes", object()], ids=["None", "bytes", "unknown"])
def test_value_for_which_the_rule_gives_nothing_is_not_stored(given_back):
    with capture_events([Said], redact=lambda *_: given_back) as pipeline, tenant(ACME):
        log_event("said", text="t", more={"a": [1]})
    assert pipeline.records[0].data == {"more": {"a": []}}


def test_what_the_rule_gives_is_searched_too():
    with capture_events([Said], redact=lambda *_: [{"x": TEXT}]) as pipeline, tenant(ACME):
        log_event("said", text="t")
    assert pipeline.records[0].data == {"text": [{"x": CLEAN}]}


def test_rule_that_raises_drops_the_value_and_is_warned_of_once(caplog):
    def rule(event: str, path: str, value: Any) -> Any:
        raise ValueError(value)

    with capture_events([Said], redact=rule) as pipeline, tenant(ACME):
        log_event("said", text="hunter2")
        log_event("said", text="hunter2")
    assert [record.data for record in pipeline.records] == [{}, {}]
    assert caplog.text.count("redact= raised ValueError for the event said: the value is not") == 1
    assert "hunter2" not in caplog.text


def test_rule_that_is_none_is_told():
    with pytest.raises(
        ConfigurationError, match=r"redact='x' cannot be called; give a function of"
    ):
        Redaction(redact="x")  # type: ignore[arg-type]


# Nothing planted comes anywhere.

PLANTED = {
    "email": "hunter2@example.com",
    "bearer": "Bearer hunter2hunter2",
    "api key": "sk_live_hunter2hunter2",
    "jwt": "eyJhbGciOihunter2.eyJodW50ZXIyhunter2.hunter2",
    "userinfo": "https://user:hunter2@example.com/x",
    "query": "https://example.com/x?a=1&access_token=hunter2",
    "conninfo": "host=h password=hunter2",
    "member": '{"api_key": "hunter2"}',
    "authorization": "Authorization: Basic hunter2",
}
AROUND = st.text(
    st.characters(exclude_categories=["L", "N", "Cs"], exclude_characters="-_.+%"), max_size=9
)
TEXTS = st.builds(
    lambda a, t, b: f"{a} {t} {b}", AROUND, st.sampled_from(list(PLANTED.values())), AROUND
)
NAMED = st.sampled_from(["password", "X-Api-Key", "accessToken", "card_number"]).map(
    lambda name: {name: {"deep": ["hunter2"]}}
)
NESTED = st.recursive(
    st.one_of(TEXTS, NAMED),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=5), TEXTS), inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


class WorkStarted(Event):
    data: Any
    email: Annotated[str, Sensitive("mask")] = "hunter2"


class LoneFailed(Event):
    """Has no started event: its start is kept in a line of the journal that is no row."""

    data: Any
    code: Annotated[str, Sensitive("drop")] = ""


class WorkCompleted(Event):
    data: Any
    result_text: str


class WorkFailed(Event):
    data: Any
    error_code: str


class Strict(Event):
    data: Any
    number: int

    @field_validator("number")
    @classmethod
    def refuse(cls, value: int) -> int:
        raise ValueError(f"hunter2 {value}")


class Raising(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.error_code = text


class Odd(Mapping[str, Any]):
    """Raises with its own values in the text."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(f"hunter2 {key}")

    __iter__ = __len__ = __getitem__  # type: ignore[assignment]

    def keys(self) -> Any:
        raise RuntimeError("hunter2")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=NESTED, text=TEXTS)
def test_planted_secret_reaches_nothing(value, text, caplog, tmp_path_factory):
    stream = io.StringIO()
    directory = tmp_path_factory.mktemp("journal")
    with (
        Pipeline(
            exporter=ConsoleExporter(stream, as_json=True),
            taxonomy=[WorkStarted, WorkCompleted, WorkFailed, LoneFailed, Strict],
            open_taxonomy="plugin_*",
            journal=directory,
            ship_interval=60,
        ) as pipeline,
        caplog.at_level(logging.DEBUG),
        tenant(ACME),
    ):

        @emits("work")
        def work(data: Any) -> dict[str, str]:
            return {"result_text": text}

        @emits("work")
        def fail(data: Any) -> None:
            raise Raising(text)

        @emits("work", result=lambda _: Odd())
        def odd(data: Any) -> int:
            return 1

        work(value)
        odd(value)
        with pytest.raises(Raising):
            fail(value)
        with emits("work", data=value) as operation:
            operation.set(result_text=text, **{"undeclared " + text: value})
        with emits("lone", data=value, code="hunter2"):
            pass
        log_event("plugin_ran", fields={"value": value, text: value, "error_code": text})
        log_event("strict", data=value, number="5")
        log_event("strict", data=value, number=text, tenant=text)
        log_event("plugin_ran", tenant=text, value=value)
        log_event("strict", fields=Odd())
        log_event("unknown", value=value, fields={text: text})
        log_event(text, value=value)
        journals = b"".join(file.read_bytes() for file in directory.rglob("*") if file.is_file())
        assert b"plugin_ran" in journals
        assert b"hunter2" not in journals
        pipeline.shutdown()
    assert "plugin_ran" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
    assert "hunter2" not in caplog.text
    caplog.clear()
