"""Emits from four threads, writes down each accepted id, and ends as told.

Usage: emit.py DSN JOURNAL ACKNOWLEDGED ENDING [EVENTS]
"""

import logging
import os
import sys
import threading

from tenantry import Pipeline, log_event

TENANT = "018f6f0e-0000-7000-8000-000000000001"

dsn, journal, path, ending = sys.argv[1:5]
count = int(sys.argv[5]) if len(sys.argv) > 5 else 10**9
logging.getLogger("tenantry").addHandler(logging.NullHandler())
acknowledgements = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
pipeline = Pipeline(dsn=dsn, journal=journal, open_taxonomy=["tick"], ship_interval=0.01)


def emit() -> None:
    with pipeline:
        for number in range(count):
            event_id = log_event("tick", tenant=TENANT, number=number)
            if event_id is not None:
                os.write(acknowledgements, f"{event_id}\n".encode())


threads = [threading.Thread(target=emit, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()

if ending == "_exit":
    os._exit(3)
elif ending == "exit":
    sys.exit(3)
elif ending == "raise":
    raise RuntimeError("nobody handles this")
