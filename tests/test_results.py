"""The results format: every value with its interval, n, unit and protocol."""

import json
from dataclasses import replace

import pytest

from companion import places, profiles, results
from companion.results import Value
from featint.store import StoreError

VALUES = {
    "joint/fvu": Value(
        0.1234567891234, n=120, unit="fraction; n articles", protocol="controlled", ci=(0.12, 0.13)
    )
}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "DATA", tmp_path)
    return replace(profiles.smoke(), name="laptop")


def test_write_then_look_up(profile):
    file = results.write(profile, "reconstruction", VALUES, seed=3, seconds=1.23)
    content = json.loads(file.read_text())
    assert set(content) == {"chapter", "profile", "provenance", "values"}
    assert content["provenance"]["seed"] == 3 and content["provenance"]["seconds"] == 1.2
    assert set(content["values"]["joint/fvu"]) == {"value", "ci", "n", "unit", "protocol"}
    found = results.lookup("laptop", "reconstruction", "joint/fvu")
    assert found["value"] == 0.12345679 and found["ci"] == [0.12, 0.13]


def test_turned_knobs_do_not_overwrite_the_profiles_results(profile):
    results.write(profile, "reconstruction", VALUES, seed=0)
    other = results.write(replace(profile, turned=("k",)), "reconstruction", VALUES, seed=0)
    assert other.parent.parent.name == "custom"


def test_missing_results_and_keys_say_what_there_is(profile):
    with pytest.raises(
        StoreError, match="there are no results at .*reconstruction.json; `make book` computes them"
    ):
        results.lookup("laptop", "reconstruction", "joint/fvu")
    file = results.write(profile, "reconstruction", VALUES, seed=0)
    with pytest.raises(StoreError, match="has no value 'joint/fv'; it has joint/fvu"):
        results.lookup("laptop", "reconstruction", "joint/fv")
    file.write_text("{}")
    with pytest.raises(StoreError, match="lacks chapter"):
        results.lookup("laptop", "reconstruction", "joint/fvu")
    file.write_text("{")
    with pytest.raises(StoreError, match="is not JSON"):
        results.lookup("laptop", "reconstruction", "joint/fvu")


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"value": float("nan"), "ci": None}, "must be finite"),
        ({"ci": (0.0, float("inf"))}, "must be finite"),
        ({"ci": (0.2, 0.3)}, "outside its interval"),
        ({"protocol": "guess"}, "protocol = 'guess' is not known"),
    ],
)
def test_a_value_that_cannot_be_is_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(VALUES["joint/fvu"], **change)
