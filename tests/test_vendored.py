"""What comes from elsewhere: the JavaScript that lies in the project, each package with its licence, and the audit of the locked packages."""

import hashlib
import re

import audit
import pytest

from companion.places import PROJECT

VENDOR = PROJECT / "book" / "_vendor"
README = (VENDOR / "README.md").read_text(encoding="utf-8")
ROWS = [line.strip("|").split(" | ") for line in README.splitlines() if line.startswith("| `")]
LICENCES = {"MIT": "Permission is hereby granted, free of charge", "Apache-2.0": "Apache License"}


def test_every_file_is_as_it_was_compared_with_its_package():
    lines = (VENDOR / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = {name.removeprefix("./"): said for said, name in (line.split("  ") for line in lines)}
    there = {f.relative_to(VENDOR).as_posix(): f for f in VENDOR.rglob("*") if f.is_file()}
    assert set(listed) == set(there) - {"README.md", "SHA256SUMS"}
    for name, said in listed.items():
        assert hashlib.sha256(there[name].read_bytes()).hexdigest() == said, name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("` "))
def test_a_package_has_its_version_and_its_licence(row):
    place, _, version, licence = (cell.strip(" `") for cell in row)
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    kind, file = licence.split(", `")
    assert LICENCES[kind] in (VENDOR / file).read_text(encoding="utf-8")
    source = VENDOR / place
    files = [source] if source.is_file() else sorted(source.glob("*.js"))
    said = "".join(f.read_text(encoding="utf-8") for f in files)
    if known := re.findall(r"@popperjs/core v([\d.]+)|VERSION=\"(3[\d.]+)\"", said):
        assert version in known[0], "what the file says of itself"


def test_no_folder_lies_here_without_a_row():
    assert {row[0].strip("` ").split("/")[0] for row in ROWS} == {
        f.name for f in VENDOR.iterdir() if f.is_dir()
    }


def test_an_audit_that_reached_nothing_does_not_say_that_all_is_well():
    """pip-audit would: it leaves out the packages that it cannot look up, and finds nothing in the others."""
    good = {"name": "a", "version": "1", "vulns": []}
    weak = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    left_out = {"name": "c", "skip_reason": "Dependency not found on PyPI"}
    said, code = audit.told([left_out])
    assert code == audit.UNKNOWN and "did not take place" in said and said.startswith("0 of 1")
    said, code = audit.told([good, left_out])
    assert code == audit.UNKNOWN and "Nothing is known about c." in said
    said, code = audit.told([good, weak])
    assert code == audit.WEAK and "b 2: CVE-1, mended in 3" in said
    assert audit.told([good]) == ("1 of 1 locked packages audited, 0 weaknesses known", 0)
