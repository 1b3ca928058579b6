"""Waits until a file is unlocked, then adopts dead journals and ships them; prints how many.

Usage: disk_adopter.py DSN JOURNAL GATE
"""

import fcntl
import sys
import time
from pathlib import Path

from tenantry.exporters.postgres import PostgresExporter
from tenantry.shipper import Shipper

dsn, journal, gate = sys.argv[1:]
exporter = PostgresExporter(dsn)
shipper = Shipper(exporter, None, root=Path(journal), destination=exporter.fingerprint)
with Path(gate).open() as file:
    print("ready", flush=True)  # noqa: T201  # it is read by who waits for it
    fcntl.flock(file, fcntl.LOCK_SH)
deadline = time.monotonic() + 60
while not shipper.drain(deadline):
    assert time.monotonic() < deadline
print(shipper.adopted)  # noqa: T201
