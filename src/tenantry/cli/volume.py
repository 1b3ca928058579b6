"""``tenantry stats --volume`` and ``--sizes``: what grows, and who makes it grow."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tenantry.cli.connection import Source
from tenantry.cli.output import print_hint, print_json, print_table
from tenantry.database.volume import Meter, Sizes, Stretch, Volume


@dataclass(frozen=True, slots=True)
class Measured:
    """What was asked for; None is what was not."""

    stretch: Stretch
    names: list[Volume] | None
    tenants: list[Volume] | None
    sizes: list[Sizes] | None


def measure(
    source: Source, *, volume: bool, sizes: bool, since: float, top: int, timeout: float
) -> Measured:
    """Measure as of one moment; ``since`` and ``timeout`` are in seconds. Needs the admin role."""
    source.require(source.installed.roles.admin)
    source.allow(3 * timeout + 5)
    with source.connection.transaction():
        meter = Meter(source.connection, source.schema, since=since, timeout=timeout)
        return Measured(
            meter.stretch,
            meter.by_name() if volume else None,
            meter.by_tenant(top) if volume else None,
            meter.sizes() if sizes else None,
        )


def print_measured(measured: Measured, since: str) -> None:
    """Print tables; ``since`` is the length of time as it was typed."""
    times = f"the last {since} against the {since} before"
    if measured.names is not None and measured.tenants is not None:
        print_table(
            f"Volume by name, {times}",
            ("event", "rows", "events", "growth", "bytes", "growth", "keys"),
            [_volume_cells(each) for each in measured.names],
        )
        print_table(
            f"Volume of the largest tenants, {times}",
            ("tenant", "rows", "events", "growth", "bytes", "growth", "names"),
            [_volume_cells(each) for each in measured.tenants],
        )
        new = sum(1 for each in measured.names if each.rows and not each.events_before)
        now = sum(1 for each in measured.names if each.rows)
        print_hint(f"Names: {now}, of which {new} are new.")
    if measured.sizes is not None:
        print_table(
            f"Payload bytes by name, {times}",
            ("event", "rows", "p50", "before", "p99", "before", "max", "before", "cut", "before"),
            [_size_cells(each) for each in measured.sizes],
            marked=[n for n, each in enumerate(measured.sizes) if each.cut],
        )


def print_measured_json(measured: Measured) -> None:
    """Print what was asked for as JSON."""
    stretch = measured.stretch
    members: dict[str, Any] = {"since": stretch.middle, "until": stretch.end}
    if measured.names is not None and measured.tenants is not None:
        members["names"] = [_volume_members(each, "name", "keys") for each in measured.names]
        members["tenants"] = [
            _volume_members(each, "tenant_id", "names") for each in measured.tenants
        ]
    if measured.sizes is not None:
        members["sizes"] = [asdict(each) for each in measured.sizes]
    print_json(**members)


def _volume_cells(volume: Volume) -> list[object]:
    return [
        volume.label,
        volume.rows,
        volume.events,
        _growth(volume.events, volume.events_before),
        volume.bytes,
        _growth(volume.bytes, volume.bytes_before),
        volume.kinds,
    ]


def _growth(now: int, before: int) -> str:
    if not before:
        return "new" if now else ""
    return f"{(now - before) / before:+.0%}"


def _size_cells(sizes: Sizes) -> list[object]:
    return [
        sizes.name,
        sizes.rows,
        *(sizes.p50, sizes.p50_before),
        *(sizes.p99, sizes.p99_before),
        *(sizes.largest, sizes.largest_before),
        *(sizes.cut, sizes.cut_before),
    ]


def _volume_members(volume: Volume, label: str, kinds: str) -> dict[str, Any]:
    return {
        label: volume.label,
        "rows": volume.rows,
        "events": volume.events,
        "events_before": volume.events_before,
        "bytes": volume.bytes,
        "bytes_before": volume.bytes_before,
        kinds: volume.kinds,
    }
