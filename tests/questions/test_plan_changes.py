"""Which tenants changed their plan."""

from __future__ import annotations

from tests.questions.asking import ACME, GLOBEX, Asking

FILE = "plan_changes"


def change(asking: Asking, previous: str, new: str, status: str = "active", **options) -> None:
    asking.add("plan_updated", previousPlan=previous, newPlan=new, status=status, **options)


def test_changes_are_listed_newest_first(asking: Asking):
    change(asking, "free", "pro", days=2)
    change(asking, "pro", "pro", "past_due", minutes=1)
    change(asking, "free", "team", tenant=GLOBEX, days=1)
    assert [tuple(row.values()) for row in asking.ask(FILE)] == [
        (ACME, "2026-03-15 11:59", "pro", "pro", "past_due"),
        (GLOBEX, "2026-03-14 12:00", "free", "team", "active"),
        (ACME, "2026-03-13 12:00", "free", "pro", "active"),
    ]


def test_changes_of_one_tenant_on_one_day_are_each_a_line(asking: Asking):
    change(asking, "free", "pro", minutes=5)
    change(asking, "pro", "free", minutes=4)
    assert [row["new_plan"] for row in asking.ask(FILE)] == ["free", "pro"]


def test_time_is_told_in_utc(asking: Asking):
    asking.connection.execute("SET LOCAL TIME ZONE 'Asia/Tokyo'")
    change(asking, "free", "pro")
    assert asking.ask(FILE)[0]["changed_at"] == "2026-03-15 12:00"


def test_window_is_thirty_days(asking: Asking):
    change(asking, "a", "within", days=30)
    change(asking, "a", "before", days=30, minutes=1)
    assert [row["new_plan"] for row in asking.ask(FILE)] == ["within"]


def test_sampled_change_is_one_line(asking: Asking):
    change(asking, "free", "pro", rate=0.1)
    assert len(asking.ask(FILE)) == 1
