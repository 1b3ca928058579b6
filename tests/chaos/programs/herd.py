"""Forks processes under load, and kills each at a random moment, two at a time.

Usage: herd.py DSN JOURNAL ACKNOWLEDGED KILLS
"""

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from load import Load


def child(arguments: list[str]) -> None:
    """Adopts what those before it left, like any process that starts."""
    try:
        for thread in Load(*arguments).start():
            thread.join()
    finally:
        os._exit(9)


def size(path: str) -> int:
    return Path(path).stat().st_size if Path(path).exists() else 0


def kill_at_some_moment(pid: int, path: str) -> None:
    before = size(path)
    # Some die before their first event, some after thousands; a slow machine is not waited for.
    goal = before + random.choice([0, random.randint(1, 20_000), random.randint(1, 200_000)])
    deadline = time.monotonic() + random.random()
    while time.monotonic() < deadline and size(path) < goal:
        threading.Event().wait(0.001)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def main() -> None:
    *arguments, kills = sys.argv[1:]
    running: list[int] = []
    for _ in range(int(kills)):
        pid = os.fork()
        if pid == 0:
            child(arguments)
        running.append(pid)
        if len(running) == 2:
            kill_at_some_moment(running.pop(0), arguments[2])
    for pid in running:
        kill_at_some_moment(pid, arguments[2])


if __name__ == "__main__":
    main()
