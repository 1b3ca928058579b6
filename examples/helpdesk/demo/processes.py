"""Processes of the demonstration: started, watched, and ended whatever happens.

Ctrl-C and SIGTERM are held back where they would leave something behind.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import httpx

_PATIENCE: Final = 60.0
"""Seconds that one step may take before the demonstration gives up."""

_POLL: Final = 0.05

_ADDRESS: Final = re.compile(r"running on (http://127\.0\.0\.1:\d+)")


class DemoFailed(Exception):
    """The demonstration could not be carried through."""


@contextmanager
def held() -> Generator[None]:
    """Hold Ctrl-C and SIGTERM back while something is made or removed; raise it afterwards."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    with _handling({signal.SIGINT: note, signal.SIGTERM: note}):
        try:
            yield
        finally:
            if received:
                # Also instead of an error: what was being made may have got the signal as well.
                raise KeyboardInterrupt


@contextmanager
def terminable() -> Generator[None]:
    """Make SIGTERM do what Ctrl-C does at that moment."""

    def interrupt(_: int, __: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    # Ctrl-C itself may be ignored, as in a shell's background job.
    handlers = {signal.SIGTERM: interrupt, signal.SIGINT: signal.default_int_handler}
    with _handling(handlers):
        yield


@contextmanager
def _handling(
    handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], object]],
) -> Generator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def inherited() -> dict[str, str]:
    """Give the environment without what would configure somebody else's help desk."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TENANTRY_", "HELPDESK_"))
    }


class Service:
    """A process, its children, and its log; the leader of a process group of its own."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name: Final = name
        self.process: Final = process
        self.log: Final = log
        self._stopping = False

    def check(self) -> None:
        """Raise ``DemoFailed`` with the end of its log if it died."""
        if self.process.poll() is not None and not self._stopping:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
            raise DemoFailed(f"{self.name} exited with {self.process.returncode}:\n{tail}")

    def stop(self) -> None:
        """Ask it to end by SIGTERM, and wait until it did."""
        self._stopping = True
        self.process.terminate()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"{self.name} does not end after SIGTERM") from None

    def end(self) -> None:
        """Kill it and its children, those that have outlived it as well."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_for_line(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Wait until its log has a line; give the match."""
        found: list[re.Match[str]] = []

        def is_there() -> bool:
            self.check()
            match = pattern.search(self.log.read_text(errors="replace"))
            found.extend([match] if match else [])
            return bool(match)

        wait_until(is_there, f"{self.name} does not say {pattern.pattern!r}")
        return found[0]

    def wait_for_url(self) -> str:
        """Wait until the server of it answers; give its address."""
        url = self.wait_for_line(_ADDRESS)[1]

        def is_healthy() -> bool:
            self.check()
            try:
                return httpx.get(f"{url}/health", timeout=5).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_healthy, f"{self.name} does not answer")
        return url


def start(
    stack: ExitStack,
    name: str,
    command: Sequence[str],
    *,
    variables: Mapping[str, str],
    folder: Path,
    log: Path,
) -> Service:
    """Start a process in ``folder``, which ends with the stack at the latest.

    What is secret goes into its environment: everybody can read a command line.
    """
    with log.open("wb") as output, held():
        process = subprocess.Popen(  # noqa: S603  # our own modules, no shell
            command,
            cwd=folder,
            env={**inherited(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # the terminal's Ctrl-C is for us, and we end them
        )
        service = Service(name, process, log)
        stack.callback(service.end)
    return service


def wait_until(condition: Callable[[], bool], problem: str, *, patience: float = _PATIENCE) -> None:
    """Wait for a condition; raise ``DemoFailed`` with the problem if it does not come."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() >= deadline:
            raise DemoFailed(f"{problem}, after {patience:.0f} s")
        time.sleep(_POLL)  # what other processes do can only be looked at
