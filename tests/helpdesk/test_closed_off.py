"""A help desk as it is by default: no private addresses; and Stripe is away."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.helpdesk.desk import Customer, DeskDatabase, Reply, Site, start_desk


@pytest.fixture(scope="module")
def closed_off(
    desk_database: DeskDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Customer]:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        desk = start_desk(
            desk_database,
            tmp_path_factory.mktemp("closed-off"),
            world=f"http://127.0.0.1:{nobody.getsockname()[1]}",
            HELPDESK_ALLOW_PRIVATE_ADDRESSES="false",
        )
        try:
            yield Customer.join(desk)
        finally:
            desk.stop()


@pytest.fixture
def customer(closed_off: Customer) -> Customer:
    return Customer.join(closed_off.desk)


def test_checkout_without_stripe_is_refused_and_not_recorded(customer: Customer):
    answer = customer.post("/v1/checkout", {"plan": "team"})
    assert answer.status_code == 502
    assert "127.0.0.1" not in answer.text
    assert customer.events() == []


def test_web_source_at_a_private_address_is_never_asked_for(customer: Customer, site: Site):
    answer = customer.ingest("web", site.serve("/page", Reply(body=b"<p>internal</p>")))
    assert (answer.status_code, answer.json()["code"]) == (422, "source_forbidden")
    assert customer.event("ingest_failed")["error_code"] == "source_forbidden"
    assert site.received == []


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/", "http://localhost/", "http://[::1]/", "http://169.254.169.254/latest"],
)
def test_integration_at_a_private_address_is_refused(customer: Customer, url: str):
    assert customer.put("/v1/integrations/webhook", {"url": url}).status_code == 422
    assert customer.rows("integrations") == []
