"""What the tests of faults share: generated cases that are the same in every run, and their number."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

CASES = Counter()
"""Generated cases by test, for the table of `make torture`."""
settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def cases(request, record_property):
    """A function that counts one more case of this test; the report holds their number."""
    n = Counter()
    yield lambda: n.update(cases=1)
    record_property("cases", n["cases"] or 1)
