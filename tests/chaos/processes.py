"""Processes: whatever starts workers, recycles them and ends them, each event is stored once."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Final

from tests.chaos.harness import Field, Program, Truth, cell, wait_until

GROUP: Final = "Processes"

WEB: Final = Path(__file__).parent / "programs"

TEN: Final = 10
"""Events that each worker of a pool emits: 10 of 10 are to arrive."""


def environment(field: Field) -> dict[str, str]:
    """Tell programs that take no arguments where they are."""
    return {
        "CHAOS_DSN": field.dsn,
        "CHAOS_JOURNAL": str(field.journal),
        "CHAOS_ACKNOWLEDGED": str(field.acknowledged),
        "CHAOS_QUEUE": str(field.scratch / "queue"),
        "PYTHONPATH": os.pathsep.join([field.environment()["PYTHONPATH"], str(WEB)]),
    }


def pids(field: Field, word: str) -> list[str]:
    return [line.split()[1] for line in field.lines() if line.startswith(f"{word} ")]


# multiprocessing.


def _pool(name: str, kind: str, method: str) -> None:
    @cell(GROUP, name)
    def pool(field: Field) -> Truth:
        # A spawned process imports everything anew.
        short, full = (4, 10) if method == "spawn" else (8, 40)
        workers = field.scale.of(short=short, full=full)
        done = field.run("pools.py", kind, method, workers, env=environment(field), seconds=120)
        assert done.code == 0, done.errors
        assert len(pids(field, "worker")) == workers
        assert len(field.acknowledged_ids()) > TEN * workers
        return Truth(times=len(set(pids(field, "worker"))))


for _method in ("fork", "spawn", "forkserver"):
    _pool(f"multiprocessing, {_method}", "process", _method)
for _method in ("fork", "spawn", "forkserver"):
    _pool(f"ProcessPoolExecutor, {_method}", "pool", _method)


@cell(GROUP, "os.fork while threads append and the shipper is inside a batch")
def forked_under_load(field: Field) -> Truth:
    forks = field.scale.of(short=60, full=1_000)
    done = field.run("forks.py", field.dsn, field.journal, field.acknowledged, forks, seconds=200)
    assert done.code == 0, done.errors
    seen = json.loads(done.output)
    assert seen["same connection"], "a child said goodbye on the parent's connection"
    assert seen["inside a batch"] > forks / 4, seen
    return Truth(times=forks, note=f"{seen['inside a batch']} of the forks inside a batch")


# Servers.


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket: no port that another test may have."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(20)
        self.sock.connect(str(self._path))


def ask(path: Path) -> str | None:
    """Send a request; None when the worker was just recycled under it."""
    connection = UnixConnection(path)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        response = connection.getresponse()
        return response.read().decode() if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def ask_all(path: Path, count: int, workers: int = 1) -> set[str]:
    """Send so many requests from four threads, and more until so many processes have answered."""
    answered: list[str] = []

    def ask_once() -> bool:
        pid = ask(path)
        if pid is not None:
            answered.append(pid)
        return pid is not None

    def ask_some() -> None:
        for _ in range(count // 4):
            wait_until(ask_once)

    threads = [threading.Thread(target=ask_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(answered) >= count // 4 * 4, "requests were not answered"
    wait_until(lambda: ask_once() and len(set(answered)) >= workers, 60, "the recycling")
    return set(answered)


def serve(field: Field, *command: object) -> tuple[Program, Path]:
    path = field.scratch / "socket"
    arguments = [str(each).replace("SOCKET", str(path)) for each in command]
    server = field.start([sys.executable, "-m", *arguments], env=environment(field))
    wait_until(lambda: ask(path) or server.code is not None, 60, "the server's first answer")
    assert server.code is None, server.errors
    return server, path


def stop(server: Program) -> None:
    server.signal(signal.SIGTERM)
    code = server.wait(60)
    assert code in {0, -signal.SIGTERM}, (code, server.errors)


def _gunicorn(name: str, application: str, *options: object) -> None:
    @cell(GROUP, f"gunicorn with preload, {name}, recycled by max_requests")
    def gunicorn(field: Field) -> Truth:
        requests, most = field.scale.of(short=60, full=600), 10
        server, path = serve(
            field,
            *("gunicorn", "--preload", "--workers", 2, "--max-requests", most),
            *("--max-requests-jitter", 3, "--bind", "unix:SOCKET", "--log-level", "warning"),
            *("--no-control-socket", *options, f"web:{application}"),
        )
        answered = ask_all(path, requests, requests // (2 * most))
        stop(server)
        assert len(pids(field, "imported")) == 1, "it was not preloaded"
        assert len(field.acknowledged_ids()) >= requests
        return Truth(times=len(answered), note=f"{len(answered)} workers")


_gunicorn("sync workers", "wsgi")
_gunicorn("thread workers", "wsgi", "--worker-class", "gthread", "--threads", 4)
_gunicorn("uvicorn workers", "asgi", "--worker-class", "uvicorn_worker.UvicornWorker")


@cell(GROUP, "uvicorn with several workers")
def uvicorn_workers(field: Field) -> Truth:
    requests = field.scale.of(short=60, full=600)
    server, path = serve(
        field,
        *("uvicorn", "--workers", 2, "--uds", "SOCKET", "--log-level", "warning"),
        *("--limit-max-requests", 15, "web:asgi"),
    )
    answered = ask_all(path, requests, field.scale.of(short=3, full=8))
    stop(server)
    return Truth(times=len(answered), note=f"{len(answered)} workers")


@cell(GROUP, "uvicorn --reload")
def uvicorn_reload(field: Field) -> Truth:
    reloads = field.scale.of(short=1, full=5)
    watched = field.scratch / "watched"
    watched.mkdir()
    shutil.copy(WEB / "web.py", watched / "app.py")
    server, path = serve(
        field,
        *("uvicorn", "--reload", "--reload-dir", watched, "--app-dir", watched),
        *("--uds", "SOCKET", "--log-level", "warning", "app:asgi"),
    )
    answered = ask_all(path, 12)
    for number in range(1, reloads + 1):
        moment = 2_000_000_000 + number
        os.utime(watched / "app.py", (moment, moment))
        before = {None, *answered}
        wait_until(lambda before=before: ask(path) not in before, 60, "the reload")
        answered |= ask_all(path, 12)
    stop(server)
    assert len(answered) == reloads + 1
    return Truth(times=reloads)


@cell(GROUP, "celery prefork, recycled by worker_max_tasks_per_child")
def celery_prefork(field: Field) -> Truth:
    tasks = field.scale.of(short=20, full=200)
    (field.scratch / "queue").mkdir()
    (field.scratch / "queue-control").mkdir()
    env = environment(field)
    sent = field.run("tasks.py", tasks, env=env)
    assert sent.code == 0, sent.errors
    worker = field.start(
        [sys.executable, "-m", "celery"],
        *("--app", "tasks", "worker", "--pool", "prefork", "--concurrency", 2),
        *("--loglevel", "warning", "--without-gossip", "--without-mingle", "--without-heartbeat"),
        env=env,
    )
    wait_until(lambda: len(pids(field, "task")) >= tasks or worker.code is not None, 120, "a task")
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 0, worker.errors
    children = set(pids(field, "task"))
    assert len(children) >= tasks // 5, f"only {len(children)} children worked"
    assert len(field.acknowledged_ids()) == tasks
    return Truth(times=len(children), note=f"{len(children)} children")
