"""Prove that an installed wheel is complete; run by the interpreter it is installed for.

Knows nothing of the source tree: `make wheel` copies it into an empty folder first. The argument
says whether the extras `cli` and `binary` are installed (`with-extras`) or not (`without-extras`).
"""

import subprocess
import sys
import sysconfig
from importlib import import_module, resources
from pathlib import Path


def check_package() -> None:
    """The package comes from site-packages, typed, with its migrations."""
    package = import_module("tenantry")
    location = Path(str(package.__file__)).resolve()
    installed = Path(sysconfig.get_path("purelib")).resolve()
    require(location.is_relative_to(installed), f"tenantry was imported from {location}")
    files = resources.files("tenantry")
    require(files.joinpath("py.typed").is_file(), "py.typed is missing")
    migrations = [f for f in files.joinpath("migrations").iterdir() if f.name.endswith(".sql")]
    require(bool(migrations), "no migration was packed")


def check_migrations_are_found() -> None:
    """`tenantry.database.migrate` finds the packed migrations, not a source tree."""
    migrate = import_module("tenantry.database.migrate")
    require(bool(migrate.find_migrations()), "tenantry.database.migrate finds no migrations")


def check_command_helps() -> None:
    """`tenantry --help` runs."""
    outcome = run_command("--help")
    require(outcome.returncode == 0, f"tenantry --help failed:\n{outcome.stderr}")
    require("Usage" in outcome.stdout, f"tenantry --help says:\n{outcome.stdout}")


def check_command_names_missing_extra() -> None:
    """Without the extra `cli`, the command says which extra to install, and fails."""
    outcome = run_command("--help")
    require(outcome.returncode != 0, "tenantry --help succeeds without the extra cli")
    require("tenantry[cli]" in outcome.stderr, f"the missing extra is not named:\n{outcome.stderr}")
    require("Traceback" not in outcome.stderr, f"a traceback is shown:\n{outcome.stderr}")


def run_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = Path(sysconfig.get_path("scripts"), "tenantry")
    return subprocess.run(
        [str(command), *arguments], check=False, capture_output=True, text=True, timeout=60
    )


def require(condition: bool, problem: str) -> None:  # noqa: FBT001  reads as a sentence
    if not condition:
        sys.exit(f"check_wheel: {problem}")


def main() -> None:
    """Run the checks for the extras that the first argument names."""
    check_package()
    match sys.argv[1:]:
        case ["with-extras"]:
            check_migrations_are_found()
            check_command_helps()
        case ["without-extras"]:
            check_command_names_missing_extra()
        case _:
            sys.exit("usage: check_wheel.py with-extras | without-extras")
    print(f"wheel: {sys.argv[1]} checked")


if __name__ == "__main__":
    main()
