"""A scope that travels between processes: signed, expiring, and otherwise ignored."""

from __future__ import annotations

import time
from urllib.parse import quote
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry import PLATFORM, Pipeline, current_operation, current_scope, emits, log_event, tenant
from tenantry.exceptions import ConfigurationError, InvalidTenant, TenantNotSet
from tenantry.exporters.memory import MemoryExporter
from tenantry.propagation import Inbound, extract, inject, set_message_attribute

ACME = "018f6f0e-7c1a-7000-8000-000000000001"
GLOBEX = "018f6f0e-7c1a-7000-8000-000000000002"
OLD, NEW = "o" * 32, "n" * 40


@pytest.fixture
def make(request):
    def make_one(**options) -> Pipeline:
        options = {"signing_keys": {"new": NEW}, "open_taxonomy": ["tick", "work_*"], **options}
        pipeline = Pipeline(exporter=MemoryExporter(), **options)
        request.addfinalizer(lambda: pipeline.shutdown(5))
        return pipeline

    return make_one


@pytest.fixture
def pipeline(make):
    with make() as made:
        yield made


def sent(tenant_id=ACME, **options) -> dict[str, str]:
    headers: dict[str, str] = {}
    with tenant(tenant_id, **options):
        inject(headers)
    return headers


def members(headers: dict[str, str]) -> dict[str, str]:
    return dict(member.split("=", 1) for member in headers["baggage"].split(","))


def header(parts: dict[str, str]) -> dict[str, str]:
    return {"baggage": ",".join(f"{key}={value}" for key, value in parts.items())}


def test_scope_and_operation_arrive(pipeline):
    headers: dict[str, str] = {}
    with tenant(ACME, actor="user:42", correlation="r 1"), emits("work") as operation:
        inject(headers)
        sender = operation.id
    with extract(headers) as scope:
        assert scope is current_scope()
        assert (scope.tenant, scope.actor, scope.correlation) == (ACME, "user:42", "r 1")
        log_event("tick")
        with emits("work"):
            pass
    assert current_scope() is None
    assert current_operation() is None
    assert pipeline.flush()
    tick, started, *_ = pipeline.exporter.records[-3:]
    assert (tick.tenant_id, tick.actor_id, tick.correlation_id) == (ACME, "user:42", "r 1")
    assert tick.parent_operation_id == started.parent_operation_id == sender


@pytest.mark.parametrize(
    "carrier",
    [
        lambda h: {"Baggage": h},
        lambda h: {"HTTP_BAGGAGE": h},
        lambda h: [(b"host", b"x"), (b"baggage", h.encode())],
        lambda h: [(b"baggage", b"a=1"), (b"BAGGAGE", h.encode())],
        lambda h: {"baggage": {"DataType": "String", "StringValue": h}},
        lambda h: {"baggage": {"Type": "String", "Value": h}},
    ],
    ids=["any case", "WSGI", "ASGI", "two headers", "SQS", "SNS"],
)
def test_carriers(pipeline, carrier):
    assert extract(carrier(sent()["baggage"])).tenant == ACME


def test_setter_and_getter_of_ones_own(pipeline):
    message: dict = {"attributes": {}}
    with tenant(ACME):
        inject(
            message,
            setter=lambda c, key, value: c["attributes"].__setitem__(key, value),
            getter=lambda c, key: c["attributes"].get(key),
        )
    assert extract(message["attributes"]).tenant == ACME
    attributes: dict = {}
    with tenant(ACME):
        inject(attributes, setter=set_message_attribute)
    assert attributes["baggage"]["DataType"] == "String"
    assert extract(attributes).is_trusted


def test_other_members_are_kept_and_our_own_replaced(pipeline):
    headers = {"baggage": "userId=alice,tenantry.tenant=evil;p=1, tenantry.signature=x"}
    with tenant(ACME):
        inject(headers)
        inject(headers)
    assert headers["baggage"].startswith("userId=alice,")
    assert headers["baggage"].count("tenantry.tenant=") == 1
    assert extract(headers).tenant == ACME


def test_without_a_scope_nothing_is_written_and_an_earlier_scope_removed(pipeline):
    headers: dict[str, str] = {}
    inject(headers)
    assert headers == {}
    headers = {**sent(), "other": "x"}
    inject(headers)
    assert "tenantry" not in headers["baggage"]


def test_platform_arrives_as_platform(pipeline):
    assert extract(sent(PLATFORM)).tenant is PLATFORM


@pytest.mark.parametrize(
    "tenant_type, tenant_id, arrives",
    [
        ("bigint", 42, 42),
        ("text", "Bücher & Co, = ;", "Bücher & Co, = ;"),
        ("uuid", UUID(ACME), ACME),
    ],
)
def test_tenant_types(make, tenant_type, tenant_id, arrives):
    with make(tenant_type=tenant_type):
        assert extract(sent(tenant_id)).tenant == arrives


def test_inbound_that_is_not_trusted_runs_without_any_tenant(pipeline):
    with tenant(GLOBEX), emits("work"):
        with extract({"baggage": f"tenantry.tenant={ACME}"}) as scope:
            assert scope is None
            assert current_scope() is None
            assert current_operation() is None
            log_event("tick")
        assert current_scope().tenant == GLOBEX
    assert pipeline.flush()
    (reject,) = pipeline.exporter.rejected
    assert (reject.reason, reject.tenant_id) == ("tenant_not_set", None)


def test_unsigned_tenant_is_taken_from_who_vouches_for_it(pipeline):
    headers = {"baggage": f"tenantry.tenant={ACME}"}
    assert extract(headers).problem == "it is not signed"
    assert extract(headers, vouched=True).tenant == ACME


def test_keys_rotate(make):
    with make(signing_keys={"old": OLD}):
        before = sent()
    with make(signing_keys={"new": NEW, "old": OLD}):
        assert extract(before).tenant == ACME
        assert ".new." in sent()["baggage"]
    with make(signing_keys={"new": NEW}):
        problem = extract(before).problem
    assert problem == "it is signed by the key 'old'; signing_keys has new"
    with make(signing_keys={"old": NEW}):
        assert extract(before).problem == "its signature does not hold"


def test_expiry_with_leeway(pipeline, monkeypatch):
    headers: dict[str, str] = {}
    with tenant(ACME):
        inject(headers, ttl=60)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 85)
    assert extract(headers).is_trusted
    monkeypatch.setattr(time, "time", lambda: now + 95)
    assert extract(headers).problem == "it has expired"
    assert extract(headers, vouched=True).is_trusted


@pytest.mark.parametrize("part", ["tenant", "actor", "correlation", "operation"])
def test_every_part_is_signed(pipeline, part):
    headers: dict[str, str] = {}
    with tenant(ACME, actor="user:1", correlation="c"), emits("work"):
        inject(headers)
    parts = members(headers)
    for changed in (GLOBEX, None):
        forged = {**parts, f"tenantry.{part}": changed}
        forged = {key: value for key, value in forged.items() if value is not None}
        assert not extract(header(forged)).is_trusted
    without = {key: value for key, value in parts.items() if key != "tenantry.signature"}
    assert extract(header(without)).problem == "it is not signed"


def test_part_that_was_not_there_cannot_be_added(pipeline):
    parts = members(sent())
    assert not extract(header({**parts, "tenantry.actor": "admin"})).is_trusted


@pytest.mark.parametrize(
    "signature, problem",
    [
        ("v2.new.99999999999.x", "its version 'v2' is unknown here; v1 is known"),
        ("v1.new.99999999999.AAAA", "its signature does not hold"),
        ("v1.new.99999999999", "its signature does not hold"),
        ("v1.new.soon.AAAA", "its signature does not hold"),
        ("v1", "it is signed by the key ''; signing_keys has new"),
        ("", "its version '' is unknown here; v1 is known"),
    ],
)
def test_signature_that_is_none(pipeline, signature, problem):
    parts = {**members(sent()), "tenantry.signature": signature}
    assert extract(header(parts)).problem == problem


def test_lifetime_is_signed(pipeline):
    parts = members(sent())
    version, key_id, expires, signature = parts["tenantry.signature"].split(".")
    later = f"{version}.{key_id}.{int(expires) + 3600}.{signature}"
    assert not extract(header({**parts, "tenantry.signature": later})).is_trusted


def test_member_given_twice_is_not_trusted(pipeline, caplog):
    headers = sent()
    headers["baggage"] += f",tenantry.tenant={GLOBEX}"
    assert extract(headers).problem == "tenantry.tenant is there twice"
    assert "an inbound tenant is ignored: tenantry.tenant is there twice" in caplog.text


def test_header_without_our_members_is_no_reason_to_warn(pipeline, caplog):
    assert extract({"baggage": "a=1"}).problem == "there is no tenant in the message"
    assert extract({}).problem == "there is no tenant in the message"
    assert not caplog.records


@pytest.mark.parametrize(
    "value, problem",
    [
        ("acme", "'acme' is no tenant id of type uuid"),
        ("%ff", "it is not UTF-8"),
        ("x" * 9000, "the baggage header is longer than 8192 bytes"),
    ],
)
def test_vouched_nonsense_is_refused(pipeline, value, problem):
    assert extract({"baggage": f"tenantry.tenant={value}"}, vouched=True).problem == problem


def test_vouched_operation_must_look_like_one(pipeline):
    headers = {"baggage": f"tenantry.tenant={ACME},tenantry.operation=x%22,tenantry.actor=a%22b"}
    inbound = extract(headers, vouched=True)
    assert (inbound.operation_id, inbound.actor) == (None, 'a"b')


def test_scope_too_long_for_the_header_is_not_passed_on(pipeline, caplog):
    headers = {"baggage": "a=" + "x" * 8100}
    with tenant(ACME):
        inject(headers)
    assert "tenantry" not in headers["baggage"]
    assert "the baggage header would be too long" in caplog.text


def test_inject_without_keys_is_unsigned_and_warned_of(make, caplog):
    with make(signing_keys=None):
        headers = sent()
        assert members(headers) == {"tenantry.tenant": ACME}
        assert extract(headers, vouched=True).is_trusted
    assert "inject() without signing_keys: the tenant is passed on unsigned" in caplog.text


def test_strict_mode_raises_for_what_is_ours_and_never_for_what_came_in(make):
    with make(strict=True, signing_keys=None):
        with tenant(ACME), pytest.raises(ConfigurationError, match="without signing_keys"):
            inject({})
        with pytest.raises(TenantNotSet, match="there is no tenant to pass on"):
            inject({})
        assert not extract({"baggage": "tenantry.tenant=x"}).is_trusted


def test_bad_tenant_is_not_passed_on(make):
    with make(), tenant("acme"):
        headers: dict[str, str] = {}
        inject(headers)
        assert headers == {}
    with make() as lenient, tenant("acme"):
        lenient.strict = True
        with pytest.raises(InvalidTenant):
            inject({})


def test_without_a_pipeline_nothing_is_trusted():
    headers: dict[str, str] = {}
    with tenant(ACME):
        inject(headers)
    assert headers == {}
    assert extract({"baggage": f"tenantry.tenant={ACME}"}, vouched=True).problem == (
        "tenantry is not configured"
    )


def test_block_is_entered_once(pipeline):
    inbound = extract(sent())
    with inbound, pytest.raises(RuntimeError, match="already entered; call extract\\(\\) anew"):
        inbound.__enter__()


@pytest.mark.parametrize(
    "keys, text",
    [
        ({"a b": NEW}, "signing_keys: an id is 1 to 32 letters, digits, hyphens and underscores"),
        ({"new": "short"}, "signing_keys: secret number 1 has 5 bytes; it takes 32 or more"),
        ([NEW], "signing_keys is a list; give a mapping of key ids to secrets"),
    ],
)
def test_keys_that_are_none(make, keys, text):
    with pytest.raises(ConfigurationError, match=text) as raised:
        make(signing_keys=keys)
    assert NEW not in str(raised.value)


@given(st.text(max_size=300), st.booleans())
def test_whatever_comes_in_raises_nothing(text, vouched):
    with Pipeline(exporter=MemoryExporter(), signing_keys={"k": NEW}) as pipeline:
        for carrier in ({"baggage": text}, {"baggage": f"tenantry.tenant={text}"}):
            inbound = extract(carrier, vouched=vouched)
            assert isinstance(inbound, Inbound)
            assert vouched or not inbound.is_trusted
        pipeline.shutdown(1)


@given(
    actor=st.text(max_size=50),
    correlation=st.none() | st.text(max_size=50),
    number=st.integers(1, 9),
)
def test_any_scope_arrives_as_it_left(actor, correlation, number):
    with Pipeline(
        exporter=MemoryExporter(), tenant_type="bigint", signing_keys={"k": NEW}
    ) as pipeline:
        headers: dict[str, str] = {}
        with tenant(number, actor=actor, correlation=correlation):
            inject(headers)
        inbound = extract(headers)
        assert inbound.tenant == number
        assert quote(inbound.actor or "", safe="") == members(headers).get("tenantry.actor", "")
        pipeline.shutdown(1)
