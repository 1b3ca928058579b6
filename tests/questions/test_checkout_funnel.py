"""How many checkouts of each plan were completed, and how long that took."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from tenantry import Event, Pipeline, log_event, tenant
from tenantry.taxonomies.saas import CheckoutCompleted, PlanUpdated
from tenantry.testing import FrozenClock
from tests.fix_postgres import Database
from tests.questions.asking import ACME, GLOBEX, NOON, Asking, read_page

FILE = "checkout_funnel"


def start(asking: Asking, session: str, plan: str = "pro", **options) -> None:
    asking.add("checkout_started", plan=plan, stripeSessionId=session, **options)


def complete(asking: Asking, session: str, plan: str = "pro", **options) -> None:
    asking.add("checkout_completed", plan=plan, stripeSessionId=session, **options)


def activate(asking: Asking, plan: str = "pro", status: str = "active", **options) -> None:
    asking.add("plan_updated", previousPlan="free", newPlan=plan, status=status, **options)


def funnel(asking: Asking) -> list[tuple[object, ...]]:
    """Give plan, tenant, started, completed, active and conversion of each line."""
    return [tuple(row.values())[:6] for row in asking.ask(FILE)]


def test_steps_of_the_funnel(asking: Asking):
    for session in "abcd":
        start(asking, session, days=3)
    for session in "abc":
        complete(asking, session, days=3, minutes=-5)
    activate(asking, days=3, minutes=-6)
    assert funnel(asking) == [("pro", ACME, 4, 3, 3, 75.0)]


def test_nobody_completed(asking: Asking):
    start(asking, "a")
    assert asking.ask(FILE) == [
        {
            "plan": "pro",
            "tenant": ACME,
            "started": 1,
            "completed": 0,
            "active": 0,
            "conversion_pct": 0.0,
            "median_time": None,
        }
    ]


def test_checkout_that_began_before_the_window_or_was_never_recorded_does_not_count(asking: Asking):
    start(asking, "within", days=30)
    start(asking, "before", days=30, minutes=1)
    for session in ("within", "before", "never recorded"):
        complete(asking, session, days=29)
    assert funnel(asking) == [("pro", ACME, 1, 1, 0, 100.0)]


def test_completion_without_any_start_is_no_line(asking: Asking):
    complete(asking, "a")
    assert asking.ask(FILE) == []


def test_events_that_were_recorded_twice_count_once(asking: Asking):
    start(asking, "a", minutes=9, times=2)
    complete(asking, "a", minutes=5, times=2)
    activate(asking, minutes=4, times=2)
    assert funnel(asking) == [("pro", ACME, 1, 1, 1, 100.0)]


def test_completion_of_another_tenant_with_the_same_session_does_not_count(asking: Asking):
    start(asking, "a")
    complete(asking, "a", tenant=GLOBEX)
    activate(asking, tenant=GLOBEX, minutes=-1)
    assert funnel(asking) == [("pro", ACME, 1, 0, 0, 0.0)]


@pytest.mark.parametrize(
    "update, is_active",
    [
        pytest.param({"minutes": 6}, 1, id="between start and completion"),
        pytest.param({"minutes": 1}, 1, id="after the completion"),
        pytest.param({"minutes": 11}, 0, id="before the start"),
        pytest.param({"minutes": 1, "status": "incomplete"}, 0, id="another status"),
        pytest.param({"minutes": 1, "plan": "team"}, 0, id="another plan"),
        pytest.param({"minutes": 1, "tenant": GLOBEX}, 0, id="another tenant"),
    ],
)
def test_plan_is_active_when_an_update_since_the_start_says_so(update, is_active, asking: Asking):
    start(asking, "a", minutes=10)
    complete(asking, "a", minutes=5)
    activate(asking, **update)
    assert funnel(asking) == [("pro", ACME, 1, 1, is_active, 100.0)]


def test_plan_that_became_active_without_a_completion_is_not_counted(asking: Asking):
    start(asking, "a", minutes=10)
    activate(asking, minutes=5)
    assert funnel(asking) == [("pro", ACME, 1, 0, 0, 0.0)]


def test_plan_of_several_tenants_has_a_line_for_all_first(asking: Asking):
    start(asking, "a")
    start(asking, "b")
    start(asking, "c", tenant=GLOBEX)
    complete(asking, "c", tenant=GLOBEX)
    start(asking, "d", plan="team")
    assert funnel(asking) == [
        ("pro", "all tenants", 3, 1, 0, 33.3),
        ("pro", ACME, 2, 0, 0, 0.0),
        ("pro", GLOBEX, 1, 1, 0, 100.0),
        ("team", ACME, 1, 0, 0, 0.0),
    ]


def test_median_is_of_the_completed_checkouts_and_weighed(asking: Asking):
    for session, minutes, rate in [("a", 2, 1), ("b", 3, 1), ("c", 8, 0.25), ("d", 9, 1)]:
        start(asking, session, hours=5, rate=rate)
        complete(asking, session, hours=5, minutes=-minutes, rate=rate)
    start(asking, "never completed", hours=5, times=9)
    (row,) = asking.ask(FILE)
    assert row["median_time"] == timedelta(minutes=8)  # half of 7 is reached with c


def test_median_of_two_is_the_shorter(asking: Asking):
    for session, minutes in [("a", 2), ("b", 8)]:
        start(asking, session, hours=5)
        complete(asking, session, hours=5, minutes=-minutes)
    assert asking.ask(FILE)[0]["median_time"] == timedelta(minutes=2)


def test_sampled_checkouts_are_estimated(asking: Asking):
    for session in "abc":
        start(asking, session, rate=0.1)
    complete(asking, "a", rate=0.1)
    start(asking, "d")
    complete(asking, "d")
    activate(asking, minutes=-1)
    assert funnel(asking) == [("pro", ACME, 31, 11, 11, 35.5)]


def test_steps_with_rates_of_their_own_weigh_by_the_lowest_so_far(asking: Asking):
    for number in range(20):
        start(asking, f"s-{number}", minutes=9)
    complete(asking, "s-0", minutes=5, rate=0.5)
    activate(asking, minutes=4, rate=0.1)
    assert funnel(asking) == [("pro", ACME, 20, 2, 10, 10.0)]


def declared_on_the_page() -> type[Event]:
    (source,) = re.findall(r"^```python\n(.*?)^```$", read_page(FILE), re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {"Event": Event, "__name__": __name__}
    exec(source, namespace)
    return namespace["CheckoutStarted"]


def test_funnel_of_an_application_that_declares_the_start_itself(
    asking: Asking, database18: Database
):
    checkout_started = declared_on_the_page()
    clock = FrozenClock((NOON - timedelta(days=1)).timestamp())
    pipeline = Pipeline(
        dsn=database18.writer,
        taxonomy=[checkout_started, CheckoutCompleted, PlanUpdated],
        clock=clock,
    )
    with pipeline, tenant(ACME):
        for session in ("cs_1", "cs_2"):
            log_event(checkout_started(plan="pro", stripe_session_id=session))
        clock.tick(180)
        log_event(CheckoutCompleted(plan="pro", stripe_session_id="cs_2"))
        log_event(PlanUpdated(previous_plan="free", new_plan="pro", status="active"))
    assert pipeline.shutdown()

    assert funnel(asking) == [("pro", ACME, 2, 1, 1, 50.0)]
    assert asking.ask(FILE)[0]["median_time"] == timedelta(minutes=3)
