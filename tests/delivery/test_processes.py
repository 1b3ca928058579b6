"""Processes that end in every way: what was accepted is stored, and once."""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from tenantry.journal import journal_directories
from tests.delivery.deliveries import (
    acknowledged,
    assert_books_balance,
    drain,
    run_program,
    start_program,
    stored_ids,
    wait_until,
)
from tests.fix_postgres import Database

THREADS = 4


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@pytest.mark.parametrize("next_one", ["drain", "next process"])
def test_killed_under_load(database18: Database, tmp_path: Path, next_one: str):
    journal, file = tmp_path / "journal", tmp_path / "acknowledged"
    for _ in range(3):  # each adopts what those before left
        processes = [start_program("emit.py", database18.writer, journal, file, "") for _ in "12"]
        goal = _size(file) + random.randint(1, 150_000)
        wait_until(lambda goal=goal: _size(file) >= goal)
        for process in processes:
            process.kill()
            process.communicate(timeout=30)
    if next_one == "next process":
        run_program("emit.py", database18.writer, journal, file, "", 1)
    assert drain(journal, database18.writer)
    found = Counter(stored_ids(database18))
    accepted = set(acknowledged(file))
    assert set(found.values()) == {1}
    assert accepted <= found.keys()
    # What was accepted in the moment of the kill could not be written down any more.
    assert len(found) - len(accepted) <= 6 * THREADS
    assert_books_balance(database18)
    assert journal_directories(journal) == []


@pytest.mark.parametrize(
    "ending, code",
    [("exit", 3), ("_exit", 3), ("raise", 1), ("", 0), ("terminate", -signal.SIGTERM)],
    ids=["sys.exit", "os._exit", "exception", "end of script", "SIGTERM"],
)
def test_ended_in_another_way(database18: Database, tmp_path: Path, ending: str, code: int):
    journal, file = tmp_path / "journal", tmp_path / "acknowledged"
    if ending == "terminate":
        process = start_program("emit.py", database18.writer, journal, file, ending)
        wait_until(lambda: _size(file) > 20_000)
        process.terminate()
        process.communicate(timeout=30)
    else:
        process = run_program("emit.py", database18.writer, journal, file, ending, 300)
        assert len(acknowledged(file)) == 300 * THREADS
    assert process.returncode == code
    if code in {0, 1} or ending == "exit":  # the exit hook left nothing behind
        assert list(journal.iterdir()) == []
    assert drain(journal, database18.writer)
    found = Counter(stored_ids(database18))
    assert set(found.values()) == {1}
    assert set(acknowledged(file)) <= found.keys()
    if ending != "terminate":
        assert len(found) == 300 * THREADS
    assert_books_balance(database18)


def test_forks_under_load(database18: Database, tmp_path: Path):
    journal, file = tmp_path / "journal", tmp_path / "acknowledged"
    done = run_program("fork.py", database18.writer, journal, file, 200)
    assert done.returncode == 0, done.stderr
    assert drain(journal, database18.writer)
    report = json.loads(done.stdout)
    assert report["before"] == report["after"]  # no child said goodbye on the parent's connection
    children = {int(line.split()[1]) for line in file.read_text().splitlines() if "child" in line}
    assert len(children) == 3
    assert report["before"] not in children
    found = Counter(stored_ids(database18))
    assert set(found.values()) == {1}
    accepted = set(acknowledged(file))
    assert accepted <= found.keys()
    phases = database18.execute(
        "SELECT phase FROM tenantry.events WHERE operation_id = %s ORDER BY id",
        [report["operation"]],
    )
    assert phases == [("started",), ("completed",)]
    assert len(found) == len(accepted) + 2
    assert_books_balance(database18)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_multiprocessing(database18: Database, tmp_path: Path, method: str):
    journal, file = tmp_path / "journal", tmp_path / "acknowledged"
    done = run_program("workers.py", database18.writer, journal, file, method)
    assert done.returncode == 0, done.stderr
    assert drain(journal, database18.writer)
    assert Counter(stored_ids(database18)) == Counter(acknowledged(file))
    assert len(acknowledged(file)) == 200
    assert_books_balance(database18)
