"""Imports an application as a server would, but for ``configure``, which configures nothing."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import sysconfig
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import tenantry
from tenantry import configuring
from tenantry.exceptions import ConfigurationError
from tenantry.exporters.memory import MemoryExporter
from tenantry.pipeline import Pipeline

_KEPT_OPTIONS = (
    "service",
    "environment",
    "taxonomy",
    "open_taxonomy",
    "tenant_type",
    "strict",
    "sampling",
)


@dataclass(slots=True)
class Application:
    """What was imported."""

    modules: list[ModuleType] = field(default_factory=list[ModuleType])
    configured: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """The options of each ``configure()`` that the import called."""


@contextmanager
def search_path(directory: Path) -> Generator[None]:
    """Look for modules in ``directory`` first, as uvicorn does with its ``--app-dir``."""
    entry = str(directory.resolve())
    sys.path.insert(0, entry)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def import_application(targets: Sequence[str], directory: Path) -> Application:
    """Import ``module`` or ``module:attribute`` each; raises ``ConfigurationError``.

    Nothing is configured: ``tenantry.configure`` only notes its options meanwhile, and gives a
    pipeline that keeps events in memory.
    """
    application = Application()
    with _noted_configuration(application):
        for target in targets:
            _import(target, directory)
    roots = {target.partition(":")[0].partition(".")[0] for target in targets}
    application.modules = [
        module
        for name, module in sorted(sys.modules.items())
        if isinstance(module, ModuleType) and _belongs(name, module, roots, directory)
    ]
    return application


def _import(target: str, directory: Path) -> None:
    name, _, attribute = target.partition(":")
    if name.endswith(".py") or os.sep in name or not name:
        raise ConfigurationError(
            f"{target!r:.120} is no module: give the dotted name that would import it, as in "
            "'helpdesk.app' or 'helpdesk.app:app', and --app-dir for where to begin"
        )
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"the module {name!r:.120} is not found: there is no {error.name} in "
                f"{directory.resolve()}. "
                "Begin in the directory that holds it, or name that with --app-dir"
            ) from None
        raise _failed(name, error, directory) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _failed(name, error, directory) from error
    for part in attribute.split(".") if attribute else ():
        found = getattr(found, part, None)
        if found is None:
            raise ConfigurationError(
                f"the module {name} has no attribute {attribute!r:.80}; name the application, or "
                "leave the part behind the colon out"
            )


def _failed(name: str, error: BaseException, directory: Path) -> ConfigurationError:
    """Say what an import raised, and in which line of the application."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_own_file(frame.filename, directory)]
    place = f" in {shown_path(own[-1].filename)}:{own[-1].lineno}" if own else ""
    text = (str(error).splitlines() or [""])[0]
    return ConfigurationError(
        f"importing {name} failed{place}: {type(error).__name__}"
        f"{f': {text:.300}' if text else ''}. The check imports what the server would import: "
        "correct it, set the variables that it needs, or name modules that need none"
    )


@contextmanager
def _noted_configuration(application: Application) -> Generator[None]:
    made: list[Pipeline] = []

    real = configuring.configure

    @functools.wraps(real)  # by which it is known for what it stands for, in the source
    def note(**options: Any) -> Pipeline:
        application.configured.append(options)
        kept = {key: options[key] for key in _KEPT_OPTIONS if options.get(key) is not None}
        made.append(Pipeline(exporter=MemoryExporter(), journal=None, **kept))
        return made[-1]

    places: Any = (tenantry, configuring)
    for place in places:
        place.configure = note
    try:
        yield
    finally:
        for place in places:
            place.configure = real
        for each in made:
            each.shutdown()


def _belongs(name: str, module: ModuleType, roots: set[str], directory: Path) -> bool:
    root = name.partition(".")[0]
    if root in roots:
        return True
    file = getattr(module, "__file__", None)
    return root not in {"tenantry", "__main__"} and bool(file) and is_own_file(file, directory)


def is_own_file(file: str | None, directory: Path) -> bool:
    """Say whether a file is of the application and not of what is installed beside it."""
    path = Path(file or "").resolve()
    return path.is_relative_to(directory.resolve()) and not any(
        path.is_relative_to(installed) for installed in _installed(directory)
    )


def _installed(directory: Path) -> Iterator[Path]:
    """List where packages are installed; an environment may lie in the application's directory."""
    names = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    for path in {sysconfig.get_path(name) for name in names}:
        installed = Path(path).resolve()
        if not directory.resolve().is_relative_to(installed):
            yield installed


def shown_path(file: str) -> str:
    """Give a path as from here where it lies below, so that editors and terminals link it."""
    path = Path(file).resolve()
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
