"""Handlers of frameworks, driven as the frameworks' own tests do."""

from __future__ import annotations

import asyncio
import os

import celery
import click
import fastapi
import flask
import httpx
import pytest
import typer
from click.testing import CliRunner
from django.http import HttpResponse, StreamingHttpResponse
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from django.views import View
from fastapi.responses import StreamingResponse
from typer.testing import CliRunner as TyperRunner

from tenantry import emits
from tests.callables.operations import ACME, here, told
from tests.djangos import set_up_django

DONE = ["work_started", "work_completed"]


def starts_of(events):
    return [r for r in events.records if r.phase == "started"]


# FastAPI.


def make_fastapi():  # noqa: C901  # one application with a path for each kind
    app = fastapi.FastAPI()

    @emits("work")
    def connection():
        yield here()[1]

    @emits("work")
    async def async_connection():
        try:
            yield here()[1]
        finally:
            await asyncio.sleep(0)

    connection_found = fastapi.Depends(connection)
    async_connection_found = fastapi.Depends(async_connection)

    @app.get("/plain/{item}")
    @emits("work")
    def plain(item: str, size: int = 3) -> dict[str, int]:
        return {"size": size}

    @app.get("/async/{item}")
    @emits("work")
    async def asynchronous(item: str, size: int = 3) -> dict[str, int]:
        return {"size": size}

    @app.get("/dependency")
    def dependency(found=connection_found) -> bool:
        return bool(found) and here() == (ACME, None)

    @app.get("/async-dependency")
    async def async_dependency(found=async_connection_found) -> bool:
        return bool(found) and here() == (ACME, None)

    @emits("work")
    def rows():
        yield from "abc"

    @emits("work")
    async def async_rows():
        for each in "abc":
            await asyncio.sleep(0)
            yield each

    @app.get("/stream")
    def stream():
        return StreamingResponse(rows())

    @app.get("/async-stream")
    async def async_stream():
        return StreamingResponse(async_rows())

    @app.get("/fails")
    @emits("work")
    def fails():
        raise fastapi.HTTPException(404)

    return app


def get(path):
    async def ask():
        transport = httpx.ASGITransport(make_fastapi())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "path, body",
    [
        ("/plain/a?size=5", {"size": 5}),
        ("/async/a?size=5", {"size": 5}),
        ("/dependency", True),
        ("/async-dependency", True),
        ("/stream", "abc"),
        ("/async-stream", "abc"),
    ],
)
def test_fastapi(events, path, body):
    answer = get(path)
    assert answer.status_code == 200
    assert (answer.text if isinstance(body, str) else answer.json()) == body
    assert told(events) == DONE
    assert {r.tenant_id for r in events.records} == {ACME}


def test_fastapi_refuses_bad_parameters_and_answers_failures(events):
    assert get("/plain/a?size=b").status_code == 422
    assert told(events) == []
    assert get("/fails").status_code == 404
    assert told(events) == ["work_started", ("work_failed", "fastapi.exceptions.HTTPException")]


def test_fastapi_schema_is_that_of_the_function():
    schema = make_fastapi().openapi()["paths"]["/plain/{item}"]["get"]
    assert [each["name"] for each in schema["parameters"]] == ["item", "size"]
    assert schema["summary"] == "Plain"


# Flask.


@pytest.mark.parametrize("path", ["/plain/a", "/stream/a"])
def test_flask(events, path):
    app = flask.Flask(__name__)

    @app.get("/plain/<item>")
    @emits("work")
    def plain(item):
        return f"{item}bc"

    @app.get("/stream/<item>")
    def stream(item):
        @emits("work")
        def rows(item):
            yield item
            yield "bc"

        return flask.stream_with_context(rows(item))

    assert app.test_client().get(path).text == "abc"
    assert told(events) == DONE
    assert starts_of(events)[0].data == {"item": "a"}


# Django.


@pytest.fixture(scope="module", autouse=True)
def django_is_set_up():
    set_up_django()


class PageView(View):
    @method_decorator(emits("work"))
    def get(self, request, item):
        return HttpResponse(item)

    @emits("work")
    def post(self, request, item):
        return HttpResponse(item)


def test_django_function_and_class_views(events):
    @emits("work")
    def page(request, item):
        return HttpResponse(item)

    get, post = RequestFactory().get("/"), RequestFactory().post("/")
    assert page(get, "a").content == b"a"
    assert PageView.as_view()(get, item="b").content == b"b"
    assert PageView.as_view()(post, item="c").content == b"c"
    found = [r.data.get("item") for r in starts_of(events)]
    assert found[0] == "a"
    assert found[2] == "c"
    assert told(events) == DONE * 3


def test_django_asynchronous_view_and_stream(events):
    @emits("work")
    async def page(request, item):
        await asyncio.sleep(0)
        return HttpResponse(item)

    @emits("work")
    def rows():
        yield b"a"
        yield b"bc"

    request = RequestFactory().get("/")
    assert asyncio.run(page(request, "a")).content == b"a"
    assert b"".join(StreamingHttpResponse(rows()).streaming_content) == b"abc"
    assert told(events) == DONE * 2


# Click, Typer.


@pytest.mark.parametrize("order", ["options above", "options below"])
def test_click(events, order):
    def hello(item, size):
        """Say hello."""
        click.echo(f"{item} {size}")

    option = click.option("--size", default=3)
    argument = click.argument("item")
    if order == "options above":
        command = click.command()(argument(option(emits("work")(hello))))
    else:
        command = click.command()(emits("work")(argument(option(hello))))
    done = CliRunner().invoke(command, ["a", "--size", "5"])
    assert (done.exit_code, done.output) == (0, "a 5\n")
    assert (command.name, command.help) == ("hello", "Say hello.")
    assert starts_of(events)[0].data == {"item": "a"}
    assert told(events) == DONE


def test_typer(events):
    app = typer.Typer()

    @app.command()
    @emits("work")
    def hello(item: str, size: int = 3, loud: bool = False) -> None:
        """Say hello."""
        typer.echo(f"{item} {size} {loud}")

    done = TyperRunner().invoke(app, ["a", "--size", "5", "--loud"])
    assert (done.exit_code, done.output) == (0, "a 5 True\n")
    assert "Say hello." in TyperRunner().invoke(app, ["--help"]).output
    assert starts_of(events)[0].data == {"item": "a"}
    assert told(events) == DONE


# Celery.


def make_celery():
    app = celery.Celery("callables", set_as_current=False)
    app.conf.update(task_always_eager=True, task_eager_propagates=False, task_ignore_result=False)
    return app


def test_celery(events):
    app = make_celery()

    @app.task
    @emits("work")
    def plain(item):
        return {"size": len(item)}

    @app.task(bind=True)
    @emits("work")
    def bound(self, item):
        return self.name, item

    @app.task(bind=True, max_retries=1)
    @emits("work", errors={celery.exceptions.Retry: "retry"})
    def fails(self, item):
        if self.request.retries:
            raise LookupError
        raise self.retry(countdown=0)

    assert plain.delay("abc").get() == {"size": 3}
    assert plain.name.endswith(".plain")
    assert bound.delay(item="abc").get() == (bound.name, "abc")
    assert [r.data for r in starts_of(events)] == [{"item": "abc"}] * 2
    assert told(events) == DONE * 2
    fails.delay("x")
    assert sorted(code for code in map(str, told(events)[4:]) if "failed" in code) == [
        "('work_failed', 'LookupError')",
        "('work_failed', 'retry')",
    ]


# pytest.


def test_pytest_fixtures(events, tmp_path):
    source = """
import pytest
from tenantry import emits

@pytest.fixture
@emits("work")
def plain():
    return 1

@pytest.fixture
@emits("work")
def opened(plain):
    yield plain + 1

def test_it(opened):
    assert opened == 2
"""
    (tmp_path / "test_inner.py").write_text(source)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-c", os.devnull]
    assert pytest.main([*options, "--rootdir", str(tmp_path), str(tmp_path)]) == 0
    assert told(events) == [*DONE, "work_started", "work_completed"]
