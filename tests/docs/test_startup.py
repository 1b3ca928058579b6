"""What the page on configuring at startup shows, under the servers that it is written for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.docs.pages import write_files
from tests.fix_postgres import Database

PAGE = "how-to/configure-at-startup.md"
ACME = "018f6f0e-7c1a-7000-8000-000000000001"
GLOBEX = "018f6f0e-7c1a-7000-8000-000000000002"

DEADLINE = 40.0
"""Seconds that a test waits for something that takes one or two."""

Start = Callable[..., subprocess.Popen[str]]

WSGI = "django.core.wsgi:get_wsgi_application()"

SETTINGS = """
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["shop"]
MIDDLEWARE = ["shop.middleware.tenant_middleware"]
ROOT_URLCONF = "shop.urls"
SECRET_KEY = "for a test"
"""

URLS = """
from django.http import JsonResponse
from django.urls import path

from tenantry import emits


def plain(request, url):
    with emits("ingest", source_type="web", url=url, docs=1, chunks=4):
        return JsonResponse({})


async def coroutine(request, url):
    async with emits("ingest", source_type="web", url=url, docs=1, chunks=4):
        return JsonResponse({})


urlpatterns = [path("plain/<url>", plain), path("async/<url>", coroutine)]
"""

LAMBDA = """
import os
import time

import lambda_function
import tenantry


class Context:
    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self):
        return 20_000


event = {
    "requestContext": {"authorizer": {"tenantId": "018f6f0e-7c1a-7000-8000-000000000001"}},
    "url": "https://acme.example/",
}
print(lambda_function.handler(event, Context()))
assert tenantry.stats().pending == 0 and tenantry.stats().stored == 2, tenantry.stats()
assert tenantry.stats().mode == "journal", tenantry.stats()
os._exit(0)  # as an instance goes
"""


@pytest.fixture
def start(place: Path, database18: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start programs that send to the database as its writer; they are gone afterwards."""
    monkeypatch.setenv("TENANTRY_DSN", database18.writer)
    monkeypatch.setenv("TENANTRY_JOURNAL", str(place / "journal"))
    monkeypatch.setenv("HOME", str(place))  # gunicorn puts a socket there
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), *sys.path]))
    started: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        log = (place / "log").open("w")
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        log.close()
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(is_so: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert process.poll() is None, Path("log").read_text()
        assert time.monotonic() < deadline, Path("log").read_text()
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(DEADLINE)


def is_up() -> bool:
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect("socket")
        return True
    return False


def client_of(place: Path) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(place / "socket")), base_url="http://localhost"
    )


def events_of(database: Database) -> list[tuple]:
    return database.execute(
        "SELECT name, tenant_id::text, data ->> 'url', correlation_id, service"
        " FROM tenantry.events ORDER BY id"
    )


def both(tenant: str, url: str, correlation: str | None, service: str) -> list[tuple]:
    return [
        (f"ingest_{phase}", tenant, url, correlation, service) for phase in ("started", "completed")
    ]


def test_fastapi_under_uvicorn(place: Path, start: Start, database18: Database):
    write_files(PAGE, place, "fastapi_app.py")
    server = start("-m", "uvicorn", "fastapi_app:app", "--reset-contextvars", "--uds", "socket")
    with client_of(place) as client:
        wait_until(is_up, server)
        headers = {"X-Api-Key": "key-of-acme", "X-Request-Id": "request-1"}
        assert client.post("/ingest?url=a", headers=headers).json() == {"docs": 1, "chunks": 4}
        assert client.post("/ingest?url=b").status_code == 401
        headers = {"X-Api-Key": "key-of-globex"}
        assert client.post("/ingest?url=c", headers=headers).status_code == 200
    end(server)

    assert events_of(database18) == [
        *both(ACME, "a", "request-1", "fastapi"),
        *both(GLOBEX, "c", None, "fastapi"),
    ]
    assert database18.execute("SELECT count(*) FROM tenantry.rejected_events") == [(0,)]


def test_flask_under_gunicorn(place: Path, start: Start, database18: Database):
    write_files(PAGE, place, "flask_app.py")
    server = start("-m", "gunicorn", "--bind", "unix:socket", "flask_app:make_app()")
    with client_of(place) as client:
        wait_until(is_up, server)
        headers = {"X-Api-Key": "key-of-acme", "X-Request-Id": "request-1"}
        assert client.post("/ingest/a", headers=headers).json() == {"docs": 1, "chunks": 4}
        assert client.post("/ingest/b").status_code == 401
        headers = {"X-Api-Key": "key-of-globex"}
        assert client.post("/ingest/c", headers=headers).status_code == 200
    end(server)

    assert events_of(database18) == [
        *both(ACME, "a", "request-1", "flask"),
        *both(GLOBEX, "c", None, "flask"),
    ]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["gunicorn", "--bind", "unix:socket", WSGI], id="gunicorn"),
        pytest.param(["uvicorn", "--uds", "socket", "shop.asgi:application"], id="uvicorn"),
    ],
)
def test_django_with_plain_and_coroutine_views(
    command: list[str],
    place: Path,
    start: Start,
    database18: Database,
    monkeypatch: pytest.MonkeyPatch,
):
    write_files(PAGE, place, "shop/apps.py", "shop/middleware.py", "shop/asgi.py")
    (place / "shop" / "__init__.py").touch()
    (place / "shop" / "urls.py").write_text(URLS)
    (place / "project.py").write_text(SETTINGS)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "project")
    server = start("-m", *command)
    with client_of(place) as client:
        wait_until(is_up, server)
        headers = {"X-Api-Key": "key-of-acme", "X-Request-Id": "request-1"}
        assert client.get("/plain/a", headers=headers).status_code == 200
        headers = {"X-Api-Key": "key-of-globex"}
        assert client.get("/async/b", headers=headers).status_code == 200
    end(server)

    stored = [(name, tenant, url) for name, tenant, url, *_ in events_of(database18)]
    assert stored == [
        ("ingest_started", ACME, "a"),
        ("ingest_completed", ACME, "a"),
        ("ingest_started", GLOBEX, "b"),
        ("ingest_completed", GLOBEX, "b"),
    ]


def test_celery_prefork_sends_what_its_workers_recorded(
    place: Path, start: Start, database18: Database, monkeypatch: pytest.MonkeyPatch
):
    write_files(PAGE, place, "celery_app.py")
    monkeypatch.setenv("CELERY_BROKER_URL", "filesystem://")
    (place / "data_in").mkdir()
    (place / "data_out").symlink_to("data_in")  # of kombu's broker: what is sent comes in
    sent = start("-c", f"import celery_app; celery_app.ingest.delay({ACME!r}, 'web', 'a')")
    assert sent.wait(DEADLINE) == 0, Path("log").read_text()
    worker = start(
        "-m",
        "celery",
        "-A",
        "celery_app",
        "worker",
        "-c",
        "1",
        "--without-mingle",
        "--without-gossip",
    )
    wait_until(lambda: not list((place / "data_in").glob("*.msg")), worker)
    end(worker)

    assert events_of(database18) == both(ACME, "a", None, "celery")
    assert list((place / "journal").iterdir()) == []


def test_script_says_what_it_could_not_send(
    place: Path, start: Start, database18: Database, monkeypatch: pytest.MonkeyPatch
):
    write_files(PAGE, place, "nightly.py")
    nightly = (place / "nightly.py").read_text()
    (place / "nightly.py").write_text(nightly.replace("timeout=30", "timeout=0.2"))
    monkeypatch.setenv("TENANTRY_DSN", f"host={place} dbname=nothing")
    assert start("nightly.py").wait(DEADLINE) == 0
    assert "2 events stay in the journal: " in Path("log").read_text()


def test_lambda_function_leaves_nothing_behind_when_it_returns(
    place: Path, start: Start, database18: Database
):
    write_files(PAGE, place, "lambda_function.py")
    assert start("-c", LAMBDA).wait(DEADLINE) == 0, Path("log").read_text()
    assert events_of(database18) == both(ACME, "https://acme.example/", "request-1", "lambda")
