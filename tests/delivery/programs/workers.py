"""Emits in processes of multiprocessing. Usage: workers.py DSN JOURNAL ACKNOWLEDGED METHOD."""

import multiprocessing
import os
import sys

from tenantry import configure, log_event

TENANT = "018f6f0e-0000-7000-8000-000000000001"


def work(dsn: str, journal: str, path: str) -> None:
    configure(dsn=dsn, journal=journal, open_taxonomy=("tick",))
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(50):
        os.write(file, f"{log_event('tick', tenant=TENANT, number=number)}\n".encode())


if __name__ == "__main__":
    *arguments, method = sys.argv[1:]
    work(*arguments)
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=work, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
