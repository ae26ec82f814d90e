"""The results format: every value with its names, interval, n, unit and protocol."""

import json
import os
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from companion import estimates, places, profiles, results, variants
from featint.store import StoreError

GAIN = {
    "model": "joint",
    "quantity": "gain",
    "baseline": "sae",
    "value": 0.1234567891234,
    "lo": 0.12,
    "hi": 0.13,
    "n": 120,
    "of": "articles",
    "unit": "%",
}
ID = "joint/gain_vs_sae/controlled"


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "RESULTS", tmp_path)
    return replace(profiles.smoke(), name="laptop")


def test_save_then_look_up(profile):
    file = results.save(profile, "reconstruction", pd.DataFrame([GAIN]), seed=3, seconds=1.23)
    content = json.loads(file.read_text(encoding="utf-8"))
    assert set(content) == {"chapter", "profile", "provenance", "values", "sha256"}
    assert content["provenance"]["seed"] == 3 and content["provenance"]["seconds"] == 1.2
    assert content["values"] == {
        ID: {
            "value": 0.12345679,  # eight significant digits
            "ci": [0.12, 0.13],
            "n": 120,
            "of": "articles",
            "unit": "%",
            "model": "joint",
            "quantity": "gain",
            "baseline": "sae",
            "part": "",
            "protocol": "controlled",
        }
    }
    row = results.lookup(file, ID)
    assert (row.value, row.lo, row.hi, row.baseline) == (0.12345679, 0.12, 0.13, "sae")


def test_what_was_saved_comes_back_as_a_tidy_frame(profile):
    rows = [
        GAIN,
        GAIN | {"baseline": "", "part": "all", "quantity": "fvu", "protocol": "as published"},
        {"model": "setting", "quantity": "k", "protocol": "setting", "value": [1, 0.1234567891234]},
        {"model": "sae", "quantity": "valley", "value": None, "n": 7, "unit": "no valley"},
    ]
    saved = estimates.tidy(rows)
    file = results.save(profile, "norms", saved, seed=0)
    back = results.table(file)
    assert list(back.index) == [
        ID,
        "joint/fvu/all/as_published",
        "setting/k",
        "sae/valley/controlled",
    ]
    expected = saved.assign(value=[0.12345679, 0.12345679, [1, 0.12345679], None])
    pd.testing.assert_frame_equal(back.reset_index(drop=True), expected)
    assert back.loc["setting/k", "value"] == [1, 0.12345679]  # the line above allows for rounding


def test_an_estimate_without_an_interval_has_none_and_numpys_numbers_become_pythons():
    row = estimates.tidy([GAIN | {"lo": None, "hi": None}]).iloc[0]
    assert results.plain(row) | {"value": 0} == {
        "value": 0,
        "ci": None,
        "n": 120,
        "of": "articles",
        "unit": "%",
    }
    mixed = results.rounded([np.float32(0.5), np.int64(3), np.float64(0.1234567891234)])
    assert mixed == [0.5, 3, 0.12345679] and [type(x) for x in mixed] == [float, int, float]


def test_a_folder_of_results_is_one_frame_by_chapter_and_id(profile):
    assert results.load(results.folder(profile)).empty
    for chapter in ("norms", "behaviour"):
        file = results.save(profile, chapter, pd.DataFrame([GAIN]), seed=0)
    file.with_name("ledger.json").write_text("[]", encoding="utf-8")
    both = results.load(file.parent)
    assert both.index.names == ["chapter", "id"]
    assert list(both.index) == [("behaviour", ID), ("norms", ID)]


def test_turned_knobs_do_not_overwrite_the_profiles_results(profile):
    frame = pd.DataFrame([GAIN])
    results.save(profile, "reconstruction", frame, seed=0)
    other = results.save(replace(profile, turned=("k",)), "reconstruction", frame, seed=0)
    assert other.parent.parent.name == "custom"


def test_missing_results_and_ids_say_what_there_is(profile):
    file = results.folder(profile) / "reconstruction.json"
    with pytest.raises(
        StoreError, match="reconstruction.json is missing; `featint notebook reconstruction"
    ):
        results.lookup(file, ID)
    assert results.save(profile, "reconstruction", pd.DataFrame([GAIN]), seed=0) == file
    with pytest.raises(StoreError, match=f"has no value 'joint/fv'; it has {ID}"):
        results.lookup(file, "joint/fv")
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(StoreError, match="lacks chapter"):
        results.lookup(file, ID)
    file.write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="cannot be read"):
        results.lookup(file, ID)


def test_results_of_another_version_are_named_with_the_remedy(profile):
    file = results.save(profile, "seeds", pd.DataFrame([GAIN]), seed=0)
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["sha256"]
    content["values"] = {
        name: {"value": 1.0, "ci": None, "protocol": "controlled"} for name in "ab"
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        StoreError,
        match=r"seeds.json was written by another version \(two .*`featint notebook seeds",
    ):
        results.load(file.parent)


def test_the_rates_of_the_models_are_those_that_the_published_tuning_chose():
    tuning = results.table(places.PUBLISHED / profiles.PUBLISHED / "tuning.json")
    chosen = tuning.query("quantity == 'rate_multiple'").set_index("model")["value"]
    assert variants.RATES == chosen.to_dict()
    fvu = tuning.query("quantity == 'validation_fvu'").astype({"value": float, "part": float})
    least = fvu.loc[fvu.groupby("model")["value"].idxmin()].set_index("model")["part"]
    assert variants.RATES == least.to_dict()
    ends = fvu.groupby("model")["part"].agg(["min", "max"])
    assert (
        (ends["min"] < least) & (least < ends["max"])
    ).all()  # else another rate could be better


@pytest.mark.smoke
@pytest.mark.parametrize("chapter", ["reconstruction"])
def test_a_chapter_that_runs_again_gives_the_same_file(chapter, copy):
    """Byte by byte but for stamps, on one machine: with the models that the first run left."""
    command = [".venv/bin/python", "-m", "companion.cli", "notebook", chapter, "--profile", "smoke"]
    done = subprocess.run(
        [*command, "--out", "out.ipynb"],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "FEATINT_CACHE": str(copy / "cache")},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    name = f"results/smoke/{chapter}.json"
    first, again = (
        json.loads((folder / name).read_text(encoding="utf-8")) for folder in (places.PROJECT, copy)
    )
    assert again["provenance"]["time"] > first["provenance"]["time"]
    for content in (first, again):
        del content["provenance"], content["sha256"]
    assert json.dumps(again) == json.dumps(first)
