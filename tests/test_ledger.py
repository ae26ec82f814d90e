"""The ledger: the paper's numbers are all there, and nothing is judged that was not measured."""

import copy
import hashlib
import itertools
import json

import pytest
import torch

from companion import ledger, places, profiles, results
from companion.verdicts import RULES, VERDICTS
from featint import store, train
from featint.config import TrainConfig

# sha256 of the 130 ids, sorted, one a line: an id that is lost, renamed or added by accident changes it.
IDS = "4253b92e9182ce364d178c5236d4994b6c7154ffcce9ef7d397ecb9306f3e3ae"
CHAPTERS = {"reconstruction", "behaviour", "efficiency", "norms", "interactions", "baselines"}
ENTRIES = ledger.entries()


# --- the paper's numbers -----------------------------------------------------------------------------------------------------------


def test_every_number_of_the_paper_is_there_once():
    ids = [entry["id"] for entry in ENTRIES]
    assert len(ids) == len(set(ids)) == 130
    assert hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest() == IDS


def test_entries_name_known_claims_rules_and_chapters():
    assert {entry["claim"] for entry in ENTRIES} == set(ledger.CLAIMS)
    assert {entry["rule"] for entry in ENTRIES} == set(RULES)
    assert {entry["chapter"] for entry in ENTRIES} == CHAPTERS


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("abs_joint_recon_improvement", 41.3),
        ("kl_seq_sae_ratio", 2.99),
        ("corr_total", -0.987),
        ("feature_4022_p", 2.85e-9),
        ("params_total", 496e6),
        ("clamp_levels_results", [-4, 0, 4]),
        ("clamp_linear_control", "no interaction"),
    ],
)
def test_headline_figures_are_the_papers(name, paper):
    assert {entry["id"]: entry["paper"] for entry in ENTRIES}[name] == paper


def test_a_key_is_asked_for_in_one_unit_only():
    asked = {}
    for entry, field in itertools.product(ENTRIES, ("as_published", "controlled", "p_value")):
        if entry.get(field) and (unit := ledger.expected_unit(entry, field)):
            asked.setdefault(entry[field], set()).add(unit)
    assert {key: units for key, units in asked.items() if len(units) > 1} == {}


def test_derived_settings_agree_with_what_training_does():
    config = TrainConfig(n_tokens=10_240)
    betas = train.optimizer_for(torch.nn.Linear(2, 2), config).param_groups[0]["betas"]
    profile = profiles.laptop()
    assert (ledger.ours("adam_beta1", profile), ledger.ours("adam_beta2", profile)) == betas
    assert ledger.ours("lr_end", profile) == pytest.approx(
        profile.train.lr * train.lr_factor(profile.train.n_steps, profile.train)
    )
    assert ledger.ours("joint:sae.k", profile) == profile.sae.k


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("label"), "abs_joint_kl_reduction: it lacks label"),
        (lambda e: e.update(rule="guess"), "rule = 'guess' is not known; allowed: 'effect'"),
        (lambda e: e.update(claim="C9"), "claim = 'C9'"),
        (lambda e: e.update(id="abs_joint_recon_improvement"), "appears twice"),
        (lambda e: e.update(controlled=None), "needs a result key in 'controlled'"),
        (
            lambda e: e.update(controlled="behaviour/kl"),
            "must read 'chapter:model/metric/controlled'",
        ),
        (lambda e: e.update(rule="reading"), "needs side"),
        (
            lambda e: e.update(paper="no interaction"),
            "needs one number, got paper = 'no interaction'",
        ),
        (
            lambda e: e.update(rule="setting", config="joint:sae.k"),
            "either `config` or a result key",
        ),
    ],
)
def test_a_malformed_entry_is_named(tmp_path, change, message):
    content = copy.deepcopy(ENTRIES)
    change(content[1])
    file = tmp_path / "paper_values.json"
    file.write_text(json.dumps(content))
    with pytest.raises(store.StoreError) as error:
        ledger.entries(file)
    assert message in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"), [("[1, 2]", "list of objects"), ("{", "is not JSON"), (None, "is missing")]
)
def test_a_malformed_file_is_named(tmp_path, text, message):
    file = tmp_path / "paper_values.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(store.StoreError, match=message):
        ledger.entries(file)


# --- the ledger --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "DATA", tmp_path)
    return profiles.smoke()


def report(profile, chapter, **values):
    results.write(
        profile, chapter, {name.replace("__", "/"): v for name, v in values.items()}, seed=0
    )


def rows(profile):
    return {row["id"]: row for row in ledger.build(profile)}


def test_without_results_all_claims_are_pending(profile):
    for entry, row in zip(ENTRIES, ledger.build(profile), strict=True):
        assert set(row) == {
            "id",
            "paper",
            "as_published",
            "controlled",
            "verdict",
            "why",
            "chapter",
        }
        if entry["rule"] == "untestable":
            assert row["verdict"] == "not testable here"
        elif "config" in entry:
            assert row["verdict"] == "setting" and row["controlled"]["value"] is not None
        else:
            assert row["verdict"] == "pending" and "has not been run in this profile" in row["why"]


def published(x, ci=None, unit="%; n articles"):
    return results.Value(x, n=12, unit=unit, protocol="as published", ci=ci)


def controlled(x, ci=None, unit="%; n articles"):
    return results.Value(x, n=12, unit=unit, protocol="controlled", ci=ci)


def test_a_row_carries_the_numbers_and_says_them(profile):
    report(
        profile,
        "reconstruction",
        joint__gain_vs_joint_own_path__as_published=published(26.125),
        joint__gain_vs_sae__controlled=controlled(4.5, (3.25, 6.0)),
        joint__gain_vs_joint_no_interaction__controlled=controlled(0.75, (-0.5, 2.0)),
    )
    row = rows(profile)["abs_joint_recon_improvement"]
    assert (
        row["verdict"] == "partly" and row["chapter"] == "reconstruction" and row["paper"] == 41.3
    )
    assert row["as_published"] == {"value": 26.125, "ci": None, "n": 12, "unit": "%; n articles"}
    assert row["controlled"] == {"value": 4.5, "ci": [3.25, 6.0], "n": 12, "unit": "%; n articles"}
    for text in ("41.3 %", "26.12 %", "4.5 %", "3.25 to 6", "12 articles", "20.65", "0.75 %"):
        assert text in row["why"]


def test_a_value_that_its_chapter_has_not_reported_is_pending_and_named(profile):
    report(profile, "reconstruction", joint__gain_vs_joint_own_path__as_published=published(26.0))
    row = rows(profile)["abs_joint_recon_improvement"]
    assert row["verdict"] == "pending" and "joint/gain_vs_sae/controlled" in row["why"]
    assert row["as_published"]["value"] == 26.0


def test_a_p_value_decides_about_an_F(profile):
    report(
        profile,
        "interactions",
        secondary__max_F__as_published=published(31.0, unit="F"),
        secondary__best_F__controlled=controlled(3.0, unit="F"),
        secondary__best_p__controlled=controlled(0.2, unit="p"),
    )
    row = rows(profile)["feature_4022_F"]
    assert (
        row["verdict"] == "not reproduced"
        and row["controlled"]["value"] == 3.0
        and "0.2" in row["why"]
    )


def test_a_setting_may_come_from_a_chapter(profile):
    report(
        profile,
        "interactions",
        setting__secondary_d_sae=results.Value(1350, n=1, unit="features", protocol="setting"),
    )
    row = rows(profile)["sec_width"]
    assert (
        row["verdict"] == "setting" and row["controlled"]["value"] == 1350 and "1350" in row["why"]
    )


def test_a_value_that_is_missing_for_a_reason_is_not_judged(profile):
    report(
        profile,
        "reconstruction",
        sae__mse__as_published=published(None, unit="MSE"),
        sae__mse__controlled=controlled(0.4, unit="MSE"),
    )
    assert rows(profile)["sae_recon_loss"]["verdict"] == "not testable here"


def test_a_value_in_another_unit_is_refused(profile):
    report(
        profile,
        "reconstruction",
        joint__gain_vs_joint_own_path__as_published=published(26.0),
        joint__gain_vs_sae__controlled=controlled(0.045, unit="share"),
    )
    with pytest.raises(
        store.StoreError, match="joint/gain_vs_sae/controlled are in 'share'.*in '%'"
    ):
        ledger.build(profile)


def test_a_list_is_refused_where_one_number_is_judged(profile):
    report(
        profile,
        "reconstruction",
        joint__gain_vs_joint_own_path__as_published=published(26.0),
        joint__gain_vs_sae__controlled=controlled([1.0, 2.0]),
    )
    with pytest.raises(store.StoreError, match="must be one number"):
        ledger.build(profile)


def test_written_ledger_holds_every_id_and_summary_counts_them(profile):
    file = ledger.write(profile)
    assert file == results.folder(profile) / "ledger.json"
    assert [row["id"] for row in json.loads(file.read_text())] == [entry["id"] for entry in ENTRIES]
    counts = ledger.summary(profile)
    assert list(counts.columns) == list(VERDICTS) and list(counts.index) == list(ledger.CLAIMS)
    assert counts.to_numpy().sum() == 130
    assert (
        len(ledger.frame(profile)) == 130
        and ledger.frame(profile).loc["setup_topk", "controlled"] == "21 features"
    )


# --- the committed results ---------------------------------------------------------------------------------------------------------

COMMITTED = sorted(
    f for profile in ("laptop", "full") for f in (places.DATA / "results" / profile).glob("*.json")
)


@pytest.mark.parametrize(
    "file", [f for f in COMMITTED if f.stem != "ledger"], ids=lambda f: f"{f.parent.name}/{f.stem}"
)
def test_a_chapter_reports_every_value_that_the_ledger_asks_it_for(file):
    values = results.read(file)["values"]
    asked = [
        (entry, field)
        for entry, field in itertools.product(ENTRIES, ("as_published", "controlled", "p_value"))
        if entry.get(field)
    ]
    missing = {
        entry[field]
        for entry, field in asked
        if ledger.split_key(entry[field])[0] == file.stem
        and ledger.split_key(entry[field])[1] not in values
    }
    assert missing == set()


@pytest.mark.parametrize(
    "file", [f for f in COMMITTED if f.stem == "ledger"], ids=lambda f: f.parent.name
)
def test_the_committed_ledger_follows_from_the_committed_results(file):
    assert json.loads(file.read_text()) == ledger.build(profiles.get(file.parent.name))
