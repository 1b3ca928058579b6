"""Small disks: a tmpfs of a few megabytes, where this process may mount one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.chaos.harness import CannotRun, Field


def small_disk(field: Field, path: Path, size: str) -> Callable[[str], None]:
    """Mount a disk of ``size`` until the cell is left; returns what mounts it anew otherwise.

    That takes a mount option: ``64m`` makes it larger, ``ro`` read-only.
    """
    if os.geteuid() != 0:
        raise CannotRun("only root may mount a small disk")
    path.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise CannotRun("this container may not mount a small disk")
    field.on_leave.callback(subprocess.run, ["umount", "--lazy", path], check=True)

    def mount_anew(option: str) -> None:
        option = option if option == "ro" else f"size={option}"
        subprocess.run(["mount", "-o", f"remount,{option}", path], check=True)

    return mount_anew
