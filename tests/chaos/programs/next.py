"""The next process: starts, adopts what dead ones left, emits one event, and ends.

Usage: next.py DSN JOURNAL ACKNOWLEDGED SECONDS
"""

import os
import sys
import threading
import time

from tenantry import Pipeline, log_event
from tenantry.journal import journal_directories

TENANT = "018f6f0e-0000-7000-8000-000000000001"

dsn, journal, path, seconds = sys.argv[1:]
acknowledgements = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
pipeline = Pipeline(dsn=dsn, journal=journal, open_taxonomy=["tick"], ship_interval=0.01)
with pipeline:
    os.write(acknowledgements, f"{log_event('tick', tenant=TENANT)}\n".encode())
deadline = time.monotonic() + float(seconds)
while len(journal_directories(pipeline.stats().directory)) > 1:  # files tell nobody
    assert time.monotonic() < deadline, "the journals of dead processes were not all adopted"
    threading.Event().wait(0.01)
assert pipeline.shutdown(10)
