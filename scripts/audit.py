"""Ask the package index's advisories about every distribution of this environment: `make audit`.

Fails for a known vulnerability. Where the advisories cannot be asked it says so and does not fail:
then `build/audited.txt` is what to check elsewhere, as CONTRIBUTING.md says.
"""

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

LISTED = Path("build/audited.txt")
TIMEOUT = 25
"""Seconds for all of it."""


def main() -> int:
    pinned = sorted(
        {f"{each.name}=={each.version}" for each in distributions() if each.name != "tenantry"},
        key=str.lower,
    )
    LISTED.parent.mkdir(exist_ok=True)
    LISTED.write_text("".join(f"{each}\n" for each in pinned))
    # One first: an index without advisories answers each of the others in vain.
    probe = LISTED.with_name("audited-first.txt")
    probe.write_text(f"{next(each for each in pinned if each.startswith('pip=='))}\n")
    said, failed = judge(ask(probe))
    if not said:
        said, failed = judge(ask(LISTED))
    print(said or f"{len(pinned)} distributions, no known vulnerability")
    return int(failed)


def ask(listed: Path) -> dict[str, Any] | str:
    """Run pip-audit over pinned requirements; gives its report, or why there is none."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
    command = [sys.executable, "-m", "pip_audit", *options, "--requirement", str(listed)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT} s"
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return (done.stderr.strip() or f"pip-audit ended with {done.returncode}").splitlines()[-1]
    return report


def judge(report: dict[str, Any] | str) -> tuple[str, bool]:
    """Say what is wrong, and whether that is a failure; ("", False) where nothing is."""
    if isinstance(report, str):
        return unasked(report), False
    vulnerable = [
        f"{each['name']} {each['version']}: {found['id']}, mended in "
        f"{', '.join(found['fix_versions']) or 'no version yet'}"
        for each in report["dependencies"]
        for found in each.get("vulns", ())
    ]
    if vulnerable:
        return "\n".join(vulnerable), True
    skipped = [each for each in report["dependencies"] if "skip_reason" in each]
    if skipped:
        names = ", ".join(each["name"] for each in skipped[:5])
        return unasked(f"it knows nothing of {len(skipped)} of them: {names}"), False
    return "", False


def unasked(why: str) -> str:
    return (
        f"NOT AUDITED: the advisories could not be asked ({why}). Check {LISTED} where they can: "
        f"pip-audit --no-deps --disable-pip -r {LISTED}"
    )


if __name__ == "__main__":
    sys.exit(main())
