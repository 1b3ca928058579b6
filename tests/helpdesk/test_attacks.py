"""Attacks: whatever a customer sends, nothing of another tenant is made, changed or seen."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from tests.helpdesk.desk import Customer, Desk

CANARY = "the-victim-keeps-this-secret"
QUESTION = "the password of the vault"
"""The victim's documents answer it with the canary."""

LIMIT = 2 * 1024 * 1024
NOBODYS = "018f6f0e-0000-7000-8000-00000000dead"
"""The id of no conversation."""

TABLES = (
    *("api_keys", "conversations", "messages", "documents", "chunks", "usage"),
    *("integrations", "outbox"),
)


def everything_of(customer: Customer) -> dict[str, list]:
    """Give every row of a tenant in both schemas, and its files."""
    events = customer.events()
    rejected = customer.desk.database.execute(
        "SELECT * FROM tenantry.rejected_events WHERE tenant_id = %s", [str(customer.id)]
    )
    tenants = customer.desk.database.execute(
        "SELECT to_jsonb(t) FROM helpdesk.tenants AS t WHERE id = %s", [customer.id]
    )
    folder = customer.desk.files_of(customer.id)
    files = sorted((str(path), path.read_bytes()) for path in folder.rglob("*") if path.is_file())
    rows = {table: customer.rows(table) for table in TABLES}
    return {"events": events, "rejected": rejected, "tenants": tenants, "files": files, **rows}


@pytest.fixture
def attacker(desk: Desk) -> Customer:
    return Customer.join(desk, key_name="attacker")


@pytest.fixture
def victim(desk: Desk, attacker: Customer) -> Iterator[Customer]:
    """Give a tenant with something to lose, and check afterwards that all is as it was."""
    victim = Customer.join(desk)
    victim.teach(f"The password of the vault is {CANARY}.", "secret.txt")
    assert CANARY in victim.say(victim.start_conversation(), QUESTION).text
    victim.put("/v1/integrations/webhook", {"url": f"{desk.world}/hooks/ok?{CANARY}"})
    before = everything_of(victim)
    yield victim
    assert everything_of(victim) == before
    assert CANARY not in "\n".join(attacker.seen)


def conversation_of(customer: Customer) -> str:
    (row,) = customer.rows("conversations")
    return str(row["id"])


def attempt_everything(attacker: Customer, **options) -> None:
    """Use each endpoint once, in a way that succeeds for the attacker's own tenant."""
    attacker.upload("own.txt", b"my own text", **options)
    attacker.ingest("file", "own.txt", **options)
    answer = attacker.post("/v1/conversations", {"session_id": "mine"}, **options)
    assert answer.status_code == 201, answer.text
    attacker.say(answer.json()["id"], QUESTION, **options)
    attacker.get(f"/v1/conversations/{answer.json()['id']}", **options)
    attacker.put("/v1/integrations/crm", {"url": f"{attacker.desk.world}/hooks/ok"}, **options)
    attacker.post("/v1/checkout", {"plan": "team"}, **options)
    attacker.get("/v1/activity", **options)


def assert_all_is_the_attackers(attacker: Customer) -> None:
    names = {row["name"] for row in attacker.events()}
    assert names >= {"conversation_started", "escalation_triggered", "ingest_completed"}
    actors = {row["actor_id"] for row in attacker.events() if "integration" not in row["name"]}
    assert actors == {"key:attacker"}


@pytest.mark.parametrize(
    "header",
    [
        *("X-Tenant-Id", "X-Tenant", "x-tenant_id", "Tenant", "X-Tenantry-Tenant", "Tenantry"),
        *("X-Org-Id", "X-Forwarded-User", "X-Actor", "X-Forwarded-For"),
    ],
)
def test_tenant_named_in_a_header_counts_for_nothing(
    attacker: Customer, victim: Customer, header: str
):
    attempt_everything(attacker, headers={header: str(victim.id)})
    assert_all_is_the_attackers(attacker)


@pytest.mark.parametrize("header", ["baggage", "Forwarded", "tracestate", "Cookie", "X-B3-TraceId"])
def test_tenant_named_in_what_travels_along_counts_for_nothing(
    attacker: Customer, victim: Customer, header: str
):
    pairs = ["tenant_id", "tenant", "tenantId", "tenantry.tenant", "tenantry.tenant_id", "for"]
    separator = ";" if header in {"Forwarded", "Cookie"} else ","
    value = separator.join(f"{name}={victim.id}" for name in pairs)
    attempt_everything(attacker, headers={header: value, "traceparent": f"00-{victim.id.hex}-1-01"})
    assert_all_is_the_attackers(attacker)


def test_tenant_named_in_the_query_counts_for_nothing(attacker: Customer, victim: Customer):
    names = ("tenant_id", "tenantId", "tenant", "key", "actor")
    attempt_everything(attacker, params={name: str(victim.id) for name in names})
    assert_all_is_the_attackers(attacker)


def test_tenant_named_in_bodies_counts_for_nothing(attacker: Customer, victim: Customer):
    named = {
        **dict.fromkeys(("tenant_id", "tenantId", "tenant", "id"), str(victim.id)),
        **dict.fromkeys(("actor", "actor_id", "correlation", "conn"), "victim"),
    }
    past = {
        "external_id": "1",
        "session_id": "old",
        "started_at": "2025-01-01T00:00:00Z",
        "messages": [{"role": "user", "text": "Hello", **named}],
    }
    attacker.upload("own.txt", b"my own text")
    world = attacker.desk.world
    bodies = {
        "/v1/conversations": {"session_id": "mine"},
        "/v1/sources": {"source_type": "file", "url": "own.txt"},
        "/v1/checkout": {"plan": "team"},
        "/v1/imports/conversations": {"conversations": [{**past, **named}]},
    }
    for path, body in bodies.items():
        assert attacker.post(path, {**body, **named}).status_code < 300
    attacker.put("/v1/integrations/crm", {"url": f"{world}/hooks/ok", **named})
    conversation_id = str(attacker.rows("conversations")[0]["id"])
    path = f"/v1/conversations/{conversation_id}/messages"
    assert attacker.post(path, {"text": QUESTION, **named}).status_code == 200
    assert_all_is_the_attackers(attacker)


def test_conversation_of_another_tenant_is_as_one_that_does_not_exist(
    attacker: Customer, victim: Customer
):
    for conversation_id in (conversation_of(victim), NOBODYS):
        path = f"/v1/conversations/{conversation_id}"
        answers = [attacker.get(path), attacker.say(conversation_id, "a human, please")]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert {answer.text for answer in answers} == {'{"detail":"no such conversation"}'}
    assert attacker.events() == []
    assert attacker.rows("usage") == []


def test_external_id_of_another_tenants_conversation_is_free(attacker: Customer, desk: Desk):
    other = Customer.join(desk)
    past = {
        "external_id": "shared",
        "session_id": "s",
        "started_at": "2025-01-01T00:00:00Z",
        "messages": [],
    }
    for each in (other, attacker):
        answer = each.post("/v1/imports/conversations", {"conversations": [past]})
        assert answer.json() == {"imported": 1, "known": 0}
    assert conversation_of(other) != conversation_of(attacker)
    assert other.event("conversation_started")["id"] != attacker.event("conversation_started")["id"]


def test_documents_of_another_tenant_answer_nothing(attacker: Customer, victim: Customer):
    attacker.teach("something of no interest")
    answer = attacker.say(attacker.start_conversation(), QUESTION).json()
    assert (answer["answer"], answer["source"]) == (None, None)


def test_files_of_another_tenant_can_be_neither_read_nor_written(
    attacker: Customer, victim: Customer
):
    for path in (f"../{victim.id}/secret.txt", f"../{victim.id}", "..", "/"):
        assert attacker.ingest("file", path).status_code == 422
    for path in (f"%2e%2e/{victim.id}/secret.txt", f"%2e%2e%2f{victim.id}%2fnew.txt"):
        assert attacker.upload(path, b"overwritten").status_code == 400
    assert attacker.rows("documents") == []


def test_integration_of_another_tenant_is_not_replaced(attacker: Customer, victim: Customer):
    (theirs,) = victim.rows("integrations")
    answer = attacker.put("/v1/integrations/webhook", {"url": "http://127.0.0.1:9/"}).json()
    assert answer["id"] != str(theirs["id"])
    assert answer["secret"] != theirs["secret"]


def test_activity_shows_own_events_only(attacker: Customer, victim: Customer):
    assert attacker.get("/v1/activity").json() == {"events": []}
    conversation_id = attacker.start_conversation()
    for params in ({}, {"limit": 200}, {"limit": 200, "tenant_id": str(victim.id)}):
        (event,) = attacker.get("/v1/activity", params=params).json()["events"]
        assert event["name"] == "conversation_started"
        assert event["data"]["conversationId"] == conversation_id
        assert event["actor_id"] == "key:attacker"


def test_activity_is_that_of_the_caller_whoever_asked_before_on_the_same_connection(desk: Desk):
    """A tenant that stayed set on a pooled connection would show up here."""
    customers = [Customer.join(desk) for _ in range(3)]
    own = {str(customer.id): customer.start_conversation() for customer in customers}
    for _ in range(5):
        for customer in customers:
            (event,) = customer.get("/v1/activity").json()["events"]
            assert event["data"]["conversationId"] == own[str(customer.id)]


@pytest.mark.parametrize("limit", ["0", "-1", "201", "all", "1; DROP TABLE tenantry.events"])
def test_activity_refuses_other_limits(attacker: Customer, limit: str):
    assert attacker.get("/v1/activity", params={"limit": limit}).status_code == 422


def test_login_of_the_application_sees_no_event_without_a_tenant_and_changes_none(
    desk: Desk, victim: Customer
):
    with psycopg.connect(desk.database.login, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM tenantry.events").fetchone() == (0,)
        for statement in (
            "UPDATE tenantry.events SET name = 'x'",
            "DELETE FROM tenantry.events",
            "TRUNCATE tenantry.events",
            "SET ROLE tenantry_admin",
            "SET ROLE tenantry_maintainer",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


# Keys.


ENDPOINTS = [
    ("POST", "/v1/conversations"),
    ("POST", f"/v1/conversations/{NOBODYS}/messages"),
    ("GET", f"/v1/conversations/{NOBODYS}"),
    ("POST", "/v1/imports/conversations"),
    ("PUT", "/v1/files/stolen.txt"),
    ("POST", "/v1/sources"),
    ("PUT", "/v1/integrations/webhook"),
    ("POST", "/v1/checkout"),
    ("GET", "/v1/activity"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/nothing"),
    ("DELETE", "/"),
]


@pytest.mark.parametrize("method, path", ENDPOINTS)
def test_no_key_opens_nothing(desk: Desk, method: str, path: str):
    answer = desk.request(method, path, content=b"{}")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def keys_in_other_places(key: str) -> dict[str, dict]:
    return {
        "wrong key": {"headers": {"Authorization": "Bearer hd_wrong"}},
        "no key": {"headers": {"Authorization": "Bearer"}},
        "nothing": {"headers": {"Authorization": ""}},
        "basic": {"auth": ("hd", key)},
        "token": {"headers": {"Authorization": f"Token {key}"}},
        "no scheme": {"headers": {"Authorization": key}},
        "no space": {"headers": {"Authorization": f"Bearer{key}"}},
        "cut short": {"headers": {"Authorization": f"Bearer {key[:-1]}"}},
        "made longer": {"headers": {"Authorization": f"Bearer {key}x"}},
        "other case": {"headers": {"Authorization": f"Bearer {key.swapcase()}"}},
        "wildcard": {"headers": {"Authorization": "Bearer %"}},
        "quotes": {"headers": {"Authorization": "Bearer ' OR ''='"}},
        "no text": {"headers": {"Authorization": b"Bearer hd_\xff\xfe"}},
        "another header": {"headers": {"X-API-Key": key}},
        "query": {"params": {"key": key, "api_key": key, "access_token": key}},
        "cookie": {"headers": {"Cookie": f"Authorization=Bearer {key}; key={key}"}},
    }


@pytest.mark.parametrize("place", keys_in_other_places("k").keys())
def test_key_that_is_none_or_is_elsewhere_opens_nothing(
    attacker: Customer, victim: Customer, place: str
):
    options = keys_in_other_places(victim.key)[place]
    for method, path in (("POST", "/v1/conversations"), ("GET", "/v1/activity")):
        body = {"json": {"session_id": "stolen"}} if method == "POST" else {}
        answer = victim.desk.request(method, path, **options, **body)
        assert answer.status_code == 401
        assert CANARY not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/health/../v1/activity",
            "/webhooks/../v1/activity",
            "//v1/activity",
            "/%76%31/activity",
        ),
        *("/webhooks/%2e%2e/v1/activity", "/healthy", "/health/v1/activity", "/V1/activity"),
        *("/webhooks//v1/activity", "/./v1/activity", "/v1/activity/", "/v1/activity#/health"),
    ],
)
def test_no_spelling_of_a_path_opens_what_needs_a_key(desk: Desk, path: str):
    connection = http.client.HTTPConnection(urlsplit(desk.url).netloc, timeout=20)
    try:
        connection.request("GET", path)  # sent as it is
        answer = connection.getresponse()
        assert answer.status in {400, 401, 404}
        assert b"events" not in answer.read()
    finally:
        connection.close()


def test_key_that_was_deleted_opens_nothing_from_then_on(attacker: Customer):
    assert attacker.get("/v1/activity").status_code == 200
    attacker.desk.database.execute(
        "DELETE FROM helpdesk.api_keys WHERE tenant_id = %s", [attacker.id]
    )
    assert attacker.get("/v1/activity").status_code == 401


@pytest.mark.parametrize("request_id", ["", "x" * 65, "a b", "{}", "<script>"], ids=repr)
def test_request_id_that_is_none_is_replaced(attacker: Customer, request_id: str):
    attacker.start_conversation(headers={"X-Request-ID": request_id.encode("latin-1")})
    correlation = attacker.event("conversation_started")["correlation_id"]
    assert len(correlation) == 36
    assert correlation != request_id


# Bodies.


def in_pieces(size: int) -> Iterator[bytes]:
    """Make a body whose length is not announced."""
    for _ in range(size // 65536 + 1):
        yield b" " * 65536


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
@pytest.mark.parametrize(
    "method, path",
    [
        ("POST", "/v1/conversations"),
        ("POST", "/v1/imports/conversations"),
        ("PUT", "/v1/files/large.txt"),
        ("POST", "/v1/sources"),
        ("POST", "/webhooks/stripe"),
    ],
)
def test_oversized_body_is_refused(attacker: Customer, method: str, path: str, announced: bool):
    content = b" " * (LIMIT + 1) if announced else in_pieces(LIMIT)
    answer = attacker.request(method, path, content=content)
    assert answer.status_code == 413
    assert answer.json() == {"detail": f"the body is larger than {LIMIT} bytes"}
    folder = attacker.desk.files_of(attacker.id)
    assert [path for path in folder.rglob("*") if path.is_file()] == []  # not even a part of it
    assert attacker.events() == []


def test_oversized_body_does_not_replace_a_file(attacker: Customer):
    attacker.upload("kept.txt", b"as it was")
    assert attacker.upload("kept.txt", in_pieces(LIMIT)).status_code == 413
    kept = attacker.desk.files_of(attacker.id) / "kept.txt"
    assert kept.read_bytes() == b"as it was"


def test_body_of_just_the_limit_is_taken(attacker: Customer):
    assert attacker.upload("large.txt", b"x" * LIMIT).json()["bytes"] == LIMIT


@pytest.mark.parametrize("length", ["-1", "1e3", "abc", "+5", "99999999999999999999"])
def test_length_that_is_none_is_refused(desk: Desk, attacker: Customer, length: str):
    connection = http.client.HTTPConnection(urlsplit(desk.url).netloc, timeout=20)
    try:
        connection.putrequest("POST", "/v1/conversations")
        connection.putheader("Authorization", f"Bearer {attacker.key}")
        connection.putheader("Content-Length", length)
        connection.endheaders()
        assert connection.getresponse().status in {400, 413}
    finally:
        connection.close()
    assert attacker.events() == []


def test_deeply_nested_json_is_refused(attacker: Customer):
    content = b"[" * 100_000 + b"]" * 100_000
    assert attacker.request("POST", "/v1/conversations", content=content).status_code in {400, 422}
    assert attacker.get("/v1/activity").json() == {"events": []}


ODD = {
    "lone surrogate": rb'"\ud800"',
    "NUL": rb'"\u0000"',
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "huge number": b"1e999",
    "long number": b"9" * 5_000,
    "null": b"null",
    "list": b"[]",
    "object": b"{}",
    "true": b"true",
    "no text": b'"\xff"',
    "cut short": b'"',
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
def test_odd_values_are_the_callers_mistake_and_not_ours(attacker: Customer, value: bytes):
    conversation_id = attacker.start_conversation()
    requests = {
        "/v1/conversations": b'{"session_id": %s}',
        f"/v1/conversations/{conversation_id}/messages": b'{"text": %s}',
        "/v1/imports/conversations": b'{"conversations": [{"external_id": %s}]}',
        "/v1/sources": b'{"source_type": "web", "url": %s}',
        "/v1/checkout": b'{"plan": %s}',
    }
    for path, body in requests.items():
        answer = attacker.request("POST", path, content=body % value)
        assert answer.status_code in {400, 422}, (path, answer.text)
    assert [row["name"] for row in attacker.events()] == ["conversation_started"]


@pytest.mark.parametrize(
    "name", ["%00", "a%00b.txt", "%ff.txt", "%ed%a0%80", "a" * 3_000, "%2e", ""]
)
def test_odd_file_names_are_the_callers_mistake_and_not_ours(attacker: Customer, name: str):
    assert attacker.upload(name, b"text").status_code in {201, 400, 404, 405, 422}
    url = unquote(name, errors="replace")
    assert attacker.ingest("file", url).status_code in {201, 422}


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "http:///x", "http://[", "http://[::1", "http://a..b/", "http://\u202e/"),
        *("http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "http://127.0.0.1:x/", "//a/", "a"),
        *("http://xn--a/", f"http://{'a' * 300}/", "http://user:pw@127.0.0.1/", "data:,x"),
        *("http://a b/", "http://a\r\nHost: b/", "http://a/\r\nX: y", "HTTP://", "http://%/"),
    ],
)
def test_odd_urls_are_the_callers_mistake_and_not_ours(attacker: Customer, url: str):
    assert attacker.ingest("web", url).status_code == 422
    answer = attacker.put("/v1/integrations/webhook", {"url": url})
    assert answer.status_code in {200, 422}, answer.text
