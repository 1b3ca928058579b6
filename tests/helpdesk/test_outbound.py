"""Requests to addresses that tenants chose never reach into our own networks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from helpdesk.outbound import AddressRefused, make_client
from helpdesk.settings import settings

PUBLIC = "http://93.184.215.14/"


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[None]:
    monkeypatch.setenv("HELPDESK_DSN", "")
    monkeypatch.setenv("HELPDESK_FILES", str(tmp_path))
    settings.cache_clear()
    yield
    settings.cache_clear()


def get(url: str, redirect_to: str | None = None) -> list[str]:
    """Get a URL whose site, if it is reached, redirects once; give the URLs that were reached."""
    reached: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        reached.append(str(request.url))
        if redirect_to is not None and len(reached) == 1:
            return httpx.Response(302, headers={"Location": redirect_to})
        return httpx.Response(200)

    async def run() -> None:
        transport = httpx.MockTransport(answer)
        async with make_client(transport=transport, follow_redirects=True) as client:
            await client.get(url)

    try:
        asyncio.run(run())
    except AddressRefused:
        reached.append("refused")
    return reached


PRIVATE = [
    "http://127.0.0.1/",
    "http://127.255.255.254:8080/",
    "http://localhost/",
    "http://0.0.0.0/",
    "http://10.1.2.3/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://100.64.0.1/",
    "http://[::1]/",
    "http://[::]/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://017700000001/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://user:password@127.0.0.1/",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_private_address_is_refused(url: str):
    assert get(url) == ["refused"]


@pytest.mark.parametrize("url", PRIVATE)
def test_redirect_to_a_private_address_is_refused(url: str):
    assert get(PUBLIC, redirect_to=url) == [PUBLIC, "refused"]


@pytest.mark.parametrize("url", ["ftp://93.184.215.14/", "file:///etc/passwd", "gopher://x/"])
def test_address_that_is_not_of_the_web_is_refused(url: str):
    assert get(url) == ["refused"]


def test_public_address_is_reached_and_so_is_the_one_it_redirects_to():
    assert get(PUBLIC, redirect_to="/next") == [PUBLIC, f"{PUBLIC}next"]


def test_private_addresses_are_reached_where_the_setting_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HELPDESK_ALLOW_PRIVATE_ADDRESSES", "true")
    settings.cache_clear()
    assert get("http://127.0.0.1/") == ["http://127.0.0.1/"]
    assert get("ftp://127.0.0.1/") == ["refused"]
