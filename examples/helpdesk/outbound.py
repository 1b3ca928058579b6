"""Requests to addresses that tenants chose: none of them may reach into our own networks."""

import asyncio
import ipaddress
import socket
from typing import Any, Final

import httpx

from helpdesk.settings import settings

_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""All that is assigned of the public IPv6 (IANA's registry of its unicast addresses)."""


class AddressRefused(httpx.RequestError):
    """The URL is not of the web, or leads into a network that is not public."""


def make_client(**options: Any) -> httpx.AsyncClient:
    """Make a client that refuses private addresses; ``options`` are those of ``AsyncClient``.

    Each request is checked, and so is each redirect where ``follow_redirects`` is set. Raises
    ``AddressRefused``, which is an ``httpx.RequestError``, from the request.
    """
    options.setdefault("timeout", settings().fetch_timeout)
    return httpx.AsyncClient(event_hooks={"request": [_check_request]}, **options)


async def check_url(url: httpx.URL) -> None:
    """Raise ``AddressRefused``, or ``httpx.ConnectError`` where the host's name leads nowhere.

    The name could resolve to something else a moment later, when the connection is made (DNS
    rebinding). This keeps out mistakes and the curious; in production, put what fetches for tenants
    behind an egress proxy, which resolves once and connects to what it has checked.
    """
    if url.scheme not in {"http", "https"} or not url.host:
        raise AddressRefused("only http:// and https:// addresses with a host are allowed")
    if settings().allow_private_addresses:
        return
    # Numbers, too, go through the resolver: it knows that 2130706433 and 0x7f.1 are 127.0.0.1.
    host = url.raw_host.decode("ascii")
    try:
        async with asyncio.timeout(settings().fetch_timeout):
            found = await asyncio.get_running_loop().getaddrinfo(
                host, url.port, type=socket.SOCK_STREAM
            )
    except TimeoutError as error:
        raise httpx.ConnectTimeout(f"resolving {host} took too long") from error
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"{host} does not resolve") from error
    if not all(_is_public(address[0]) for *_, address in found):
        raise AddressRefused(f"{host} lies in a network that is not public")


async def _check_request(request: httpx.Request) -> None:
    try:
        await check_url(request.url)
    except httpx.RequestError as error:
        error.request = request
        raise


def _is_public(address: str | int) -> bool:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and (
        parsed not in _UNICAST or parsed.sixtofour or parsed.teredo
    ):
        return False  # it may stand for an IPv4 address, which may be any
    return parsed.is_global and not parsed.is_multicast
