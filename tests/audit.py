"""Known weaknesses of the locked packages: `make audit`, by pip-audit in an environment of its own.

Its word "No known vulnerabilities found" stands also over packages of which it could not reach the data; here they are counted."""

import json
import subprocess
import sys
import venv

from companion import places

LOCK = places.PROJECT / "requirements.lock"
WEAK, UNKNOWN = 1, 3
"""Exit codes: there are known weaknesses; of some packages nothing could be found out."""


def told(dependencies: list[dict]) -> tuple[str, int]:
    """What the rows of pip-audit say, and the exit code: each weakness with the versions that mend it, and what was not looked up."""
    unknown = [row["name"] for row in dependencies if "skip_reason" in row]
    weak = [
        f"{row['name']} {row['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for row in dependencies
        for found in row.get("vulns", ())
    ]
    known = len(dependencies) - len(unknown)
    lines = [
        f"{known} of {len(dependencies)} locked packages audited, {len(weak)} weaknesses known"
    ]
    lines += weak
    if not known:
        lines += ["The audit did not take place: its data could not be reached."]
    elif unknown:
        lines += [f"Nothing is known about {', '.join(unknown)}."]
    return "\n".join(lines), WEAK if weak else UNKNOWN if unknown else 0


def main() -> int:
    folder = places.BUILD / "audit"
    tool = folder / "bin" / "pip-audit"
    if not tool.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "pip-audit"], check=True)
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    words = "--no-deps --disable-pip --progress-spinner off --format json".split()
    done = subprocess.run(
        [tool, "--requirement", LOCK, *words, "--output", report], capture_output=True
    )
    if not report.exists():
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        print(f"The audit did not take place: {last}", file=sys.stderr)
        return UNKNOWN
    text, code = told(json.loads(report.read_text(encoding="utf-8"))["dependencies"])
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
