"""Ingestion: why a source cannot be had is a code; what can be had is counted, and replaced."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from helpdesk.tenants import LIMITS

from tests.helpdesk.desk import Customer, Reply, Site

MIB = 1024 * 1024

REFUSED = "source_forbidden"


def assert_refused(customer: Customer, source_type: str, url: str, code: str) -> None:
    answer = customer.ingest(source_type, url)
    assert (answer.status_code, answer.json().get("code")) == (422, code), answer.text
    assert isinstance(answer.json()["detail"], str)
    started, failed = customer.events()
    assert (started["name"], failed["name"]) == ("ingest_started", "ingest_failed")
    assert failed["error_code"] == failed["data"]["errorCode"] == code
    assert customer.rows("documents") == customer.rows("chunks") == customer.rows("usage") == []


@pytest.mark.parametrize(
    "content, code",
    [
        pytest.param(b"x" * (MIB + 1), "source_too_large", id="too large"),
        pytest.param(b"text\0more text", "source_binary", id="binary"),
        pytest.param(b"caf\xe9 au lait", "source_undecodable", id="undecodable"),
        pytest.param(b" \n\t\n", "source_empty", id="blank"),
        pytest.param(b"", "source_empty", id="empty"),
    ],
)
def test_file_that_is_no_document(customer: Customer, content: bytes, code: str):
    assert customer.upload("document.txt", content).status_code == 201
    assert_refused(customer, "file", "document.txt", code)


@pytest.mark.parametrize(
    "path, code",
    [
        pytest.param("nowhere.txt", "source_missing", id="missing"),
        pytest.param("no/folder/here.txt", "source_missing", id="missing folder"),
        pytest.param("a" * 300 + ".txt", "source_unreadable", id="too long a name"),
    ],
)
def test_file_that_cannot_be_read(customer: Customer, path: str, code: str):
    customer.upload("another.txt", b"text")
    assert_refused(customer, "file", path, code)


@pytest.mark.parametrize(
    "status, code",
    [
        (404, "source_missing"),
        (410, "source_missing"),
        (401, "source_forbidden"),
        (403, "source_forbidden"),
        (400, "source_unreadable"),
        (429, "source_unreadable"),
        (500, "source_unavailable"),
        (503, "source_unavailable"),
    ],
)
def test_web_source_that_answers_with_an_error(
    customer: Customer, site: Site, status: int, code: str
):
    url = site.serve("/page", Reply(status, b"<p>An explanation.</p>"))
    assert_refused(customer, "web", url, code)


TEXT = {"Content-Type": "text/plain; charset=utf-8"}


@pytest.mark.parametrize(
    "reply, code",
    [
        pytest.param(Reply(body=b"x" * (MIB + 1), headers=TEXT), "source_too_large", id="large"),
        pytest.param(
            Reply(body=b"text", headers={"Content-Type": "image/png"}), "source_binary", id="image"
        ),
        pytest.param(Reply(body=b"text\0", headers=TEXT), "source_binary", id="NUL"),
        pytest.param(Reply(body=b"caf\xe9", headers=TEXT), "source_undecodable", id="undecodable"),
        pytest.param(
            Reply(body=b"<title>Title</title><script>start()</script><nav>Home</nav>"),
            "source_empty",
            id="no text",
        ),
        pytest.param(Reply(hangs=True), "source_timeout", id="silent"),
    ],
)
def test_web_source_that_is_no_document(customer: Customer, site: Site, reply: Reply, code: str):
    assert_refused(customer, "web", site.serve("/page", reply), code)


@pytest.mark.parametrize(
    "page, code",
    [
        ("missing", "source_missing"),
        ("large", "source_too_large"),
        ("image.png", "source_binary"),
        ("latin1.txt", "source_undecodable"),
        ("empty", "source_empty"),
        ("slow", "source_timeout"),
    ],
)
def test_page_of_the_outside_world_that_is_no_document(customer: Customer, page: str, code: str):
    assert_refused(customer, "web", f"{customer.desk.world}/site/{page}", code)


def test_web_source_where_nobody_listens(customer: Customer, closed_port: str):
    assert_refused(customer, "web", closed_port, "source_unavailable")


def test_web_source_whose_name_leads_nowhere(customer: Customer):
    assert_refused(customer, "web", "http://nowhere.invalid/", "source_unavailable")


@pytest.mark.parametrize(
    "body",
    [{}, {"source_type": "file"}, {"source_type": "ftp", "url": "x"}, {"url": "x"}, []],
    ids=["nothing", "no url", "another type", "no type", "a list"],
)
def test_request_that_names_no_source_begins_nothing(customer: Customer, body: object):
    assert customer.post("/v1/sources", body).status_code == 422
    assert customer.events() == []


def test_documents_and_chunks_of_a_folder_are_counted(customer: Customer):
    paragraphs = "\n\n".join(f"Paragraph {n}. " + "Something to know. " * 30 for n in range(6))
    customer.upload("handbook/start.md", b"# Start\n\nWhere it begins.")
    customer.upload("handbook/more/page.html", b"<h1>Page</h1><p>What is on it.</p>")
    customer.upload("handbook/long.txt", paragraphs.encode())
    customer.upload("handbook/picture.png", b"\x89PNG\0")  # not of a kind that is read
    customer.upload("elsewhere.txt", b"Not in this folder.")
    answer = customer.ingest("file", "handbook")
    chunks = customer.rows("chunks")
    assert len(chunks) > 3
    assert (answer.status_code, answer.json()) == (201, {"docs": 3, "chunks": len(chunks)})
    assert len(customer.rows("documents")) == 3
    data = customer.event("ingest_completed")["data"]
    assert (data["docs"], data["chunks"]) == (3, len(chunks))


def test_folder_is_ingested_whole_or_not_at_all(customer: Customer):
    customer.upload("handbook/good.txt", b"Something to know.")
    customer.upload("handbook/bad.txt", b"caf\xe9")
    assert_refused(customer, "file", "handbook", "source_undecodable")


def test_web_page_is_ingested(customer: Customer):
    url = f"{customer.desk.world}/site/json.html"
    answer = customer.ingest("web", url)
    assert (answer.status_code, answer.json()["docs"]) == (201, 1)
    assert len(customer.rows("chunks")) == answer.json()["chunks"] > 1
    (document,) = customer.rows("documents")
    assert "json" in document["title"]
    reply = customer.say(customer.start_conversation(), "JSON decoder").json()
    assert reply["source"] == document["url"]


def test_redirects_are_followed(customer: Customer):
    assert customer.ingest("web", f"{customer.desk.world}/site/moved").status_code == 201


@pytest.mark.parametrize("source_type", ["file", "web"])
def test_source_that_is_ingested_again_is_replaced_and_costs_nothing(
    customer: Customer, site: Site, source_type: str
):
    serve: dict[str, Callable[[bytes], str]] = {
        "file": lambda body: customer.upload("guide.txt", body).json()["path"],
        "web": lambda body: site.serve("/guide", Reply(body=body, headers=TEXT)),
    }
    long = "\n\n".join(f"Unicorns, part {n}. " + "They graze. " * 60 for n in range(4)).encode()
    first = customer.ingest(source_type, serve[source_type](long)).json()
    second = customer.ingest(source_type, serve[source_type](b"Only dragons here.")).json()
    assert first["chunks"] > 1
    assert second == {"docs": 1, "chunks": 1}
    assert [row["body"] for row in customer.rows("chunks")] == ["Only dragons here."]
    assert len(customer.rows("documents")) == 1
    assert [row["used"] for row in customer.rows("usage")] == [1]
    assert [row["data"]["chunks"] for row in customer.events("ingest_completed")] == [
        first["chunks"],
        1,
    ]


def test_only_the_new_documents_of_a_folder_count(customer: Customer):
    for number, name in enumerate(("a", "b", "c"), 1):
        customer.upload(f"handbook/{name}.txt", b"Something to know.")
        assert customer.ingest("file", "handbook").json()["docs"] == number
    assert [row["used"] for row in customer.rows("usage")] == [3]


def test_known_document_can_be_replaced_when_the_plan_includes_less_by_now(customer: Customer):
    customer.teach("First edition.")
    customer.desk.database.execute(
        "UPDATE helpdesk.usage SET used = %s WHERE tenant_id = %s",
        [LIMITS["team"]["documents"] + 1, customer.id],
    )
    customer.teach("Second edition.")
    assert customer.events("quota_exceeded") == []


def escape(customer: Customer, victim: Customer, way: str) -> str:
    """Give a path that leads to the victim's file ``secret.txt``."""
    target = customer.desk.files_of(victim.id) / "secret.txt"
    folder = customer.desk.files_of(customer.id)
    folder.mkdir(parents=True, exist_ok=True)
    if way == "link":
        (folder / "link.txt").symlink_to(target)
    elif way == "link to a folder":
        (folder / "link").symlink_to(target.parent)
    return {
        "up": f"../{victim.id}/secret.txt",
        "down and up": f"a/b/../../../{victim.id}/secret.txt",
        "its folder": f"../{victim.id}",
        "all folders": "..",
        "absolute": str(target),
        "as a URL": target.as_uri(),
        "backslashes": f"..\\{victim.id}\\secret.txt",
        "link": "link.txt",
        "link to a folder": "link/secret.txt",
    }[way]


@pytest.mark.parametrize(
    "way",
    [
        *("up", "down and up", "its folder", "all folders", "absolute", "as a URL"),
        *("backslashes", "link", "link to a folder"),
    ],
)
def test_path_that_leaves_the_folder_is_refused(customer: Customer, way: str):
    victim = Customer.join(customer.desk)
    victim.upload("secret.txt", b"Nobody else may read it.")
    literal = {"as a URL", "backslashes"}  # names of files that could be there, and are not
    code = "source_missing" if way in literal else REFUSED
    assert_refused(customer, "file", escape(customer, victim, way), code)


@pytest.mark.parametrize("way", ["up", "absolute", "link"])
def test_file_outside_of_the_folder_is_not_even_opened(customer: Customer, way: str):
    victim = Customer.join(customer.desk)
    folder = customer.desk.files_of(victim.id)
    folder.mkdir(parents=True)
    os.mkfifo(folder / "secret.txt")  # whoever opened it would wait for ever
    assert_refused(customer, "file", escape(customer, victim, way), REFUSED)


@pytest.mark.parametrize(
    "path",
    ["%2e%2e/escaped.txt", "a/%2e%2e/%2e%2e/escaped.txt", "%2e%2e%2fescaped.txt", "%2ftmp/escaped"],
    ids=["up", "down and up", "one segment", "absolute"],
)
def test_upload_that_leaves_the_folder_is_refused(customer: Customer, path: str):
    assert customer.upload(path, b"text").status_code == 400
    folder = customer.desk.files_of(customer.id)
    assert not [*folder.parent.glob("escaped*"), *folder.rglob("*")]
    assert not os.path.lexists("/tmp/escaped")


def test_upload_through_a_link_that_leaves_the_folder_is_refused(customer: Customer):
    victim = Customer.join(customer.desk)
    victim.upload("secret.txt", b"as it was")
    path = escape(customer, victim, "link to a folder")
    assert customer.upload(path, b"changed").status_code == 400
    secret = customer.desk.files_of(victim.id) / "secret.txt"
    assert secret.read_bytes() == b"as it was"


def test_upload_is_stored_in_the_folder_of_its_tenant(customer: Customer):
    answer = customer.upload("manual/first.txt", b"text")
    assert (answer.status_code, answer.json()) == (201, {"path": "manual/first.txt", "bytes": 4})
    stored = customer.desk.files_of(customer.id) / "manual" / "first.txt"
    assert stored.read_bytes() == b"text"
