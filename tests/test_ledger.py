"""The ledger: the paper's numbers are all there, and nothing is judged that was not measured."""

import copy
import hashlib
import importlib
import itertools
import json

import jsonschema
import pytest
import torch
from packaging.utils import canonicalize_name
from packaging.version import Version

from companion import estimates, ledger, places, profiles, results, verdicts
from companion.verdicts import RULES, VERDICTS
from featint import store, train
from featint.config import TrainConfig

# sha256 of the 130 ids, sorted, one a line: an id that is lost, renamed or added by accident changes it.
IDS = "4253b92e9182ce364d178c5236d4994b6c7154ffcce9ef7d397ecb9306f3e3ae"
CHAPTERS = {"reconstruction", "behaviour", "efficiency", "norms", "interactions", "baselines"}
ENTRIES = ledger.entries()


@pytest.fixture
def roles(monkeypatch):
    """What the book's pages know of the ledger."""
    monkeypatch.syspath_prepend(places.PROJECT / "book" / "_ext")
    return importlib.import_module("featint_roles")


# --- the paper's numbers -----------------------------------------------------------------------------------------------------------


def test_every_number_of_the_paper_is_there_once():
    ids = [entry["id"] for entry in ENTRIES]
    assert len(ids) == len(set(ids)) == 130
    assert hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest() == IDS


def test_entries_name_known_claims_rules_and_chapters(roles):
    assert {entry["claim"] for entry in ENTRIES} == set(roles.CLAIMS)
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


@pytest.mark.parametrize(
    ("rule", "units"),
    [
        ("effect", ("%", "%", "p", "x")),
        ("arithmetic", ("%", "%", "p", "x")),
        ("size", ("%", "%", "p", "x")),
        ("reading", ("%", None, "p", "x")),
        ("significance", (None, None, "p", "x")),
    ],
)
def test_the_unit_that_a_rule_expects(rule, units):
    """Of the value as published, the controlled one, the p value and the effect in units of a bound."""
    entry = {"rule": rule, "unit": "%"}
    assert tuple(ledger.expected_unit(entry, field) for field in ledger.FIELDS) == units
    other = entry | {"unit": "", "compare": {"value": 1.0, "unit": "%"}}
    assert tuple(ledger.expected_unit(other, field) for field in ledger.FIELDS) == units


def test_derived_settings_agree_with_what_training_does():
    config = TrainConfig(n_tokens=10_240)
    betas = train.optimizer_for(torch.nn.Linear(2, 2), config).param_groups[0]["betas"]
    profile = profiles.laptop()
    assert (ledger.setting("adam_beta1", profile), ledger.setting("adam_beta2", profile)) == betas
    assert ledger.setting("lr_end", profile) == pytest.approx(
        profile.train.lr * train.lr_factor(profile.train.n_steps, profile.train)
    )
    assert ledger.setting("joint:sae.k", profile) == profile.sae.k


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda e: e.pop("label"),
            "entry abs_joint_kl_reduction, $: 'label' is a required property",
        ),
        (lambda e: e.pop("id"), "entry number 1, $: 'id' is a required property"),
        (lambda e: e.update(rule="guess"), "_reduction, rule: 'guess' is not one of ['effect'"),
        (lambda e: e.update(claim="C9"), "claim: 'C9' is not one of ['C1'"),
        (lambda e: e.update(id="abs_joint_recon_improvement"), "appears twice"),
        (lambda e: e.update(controlled=None), "controlled: None is not of type 'string'"),
        (
            lambda e: e.update(controlled="behaviour/kl"),
            "controlled: 'behaviour/kl' does not match",
        ),
        (lambda e: e.update(rule="reading"), "'side' is a required property"),
        (lambda e: e.update(paper="no interaction"), "'no interaction'"),
        (lambda e: e.update(rule="setting", config="joint:sae.k"), "is not of type 'null'"),
    ],
)
def test_a_malformed_entry_is_named(tmp_path, change, message):
    content = copy.deepcopy(ENTRIES)
    change(content[1])
    file = tmp_path / "paper_values.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(store.StoreError) as error:
        ledger.entries(file)
    assert message in str(error.value) and str(file) in str(error.value)


def test_the_schema_knows_the_claims_and_the_rules_and_what_each_rule_reads(roles):
    """By rule, an entry that lacks a result which its verdict rests on is refused."""
    schema = json.loads(ledger.SCHEMA.read_text(encoding="utf-8"))
    assert schema["properties"]["claim"]["enum"] == list(roles.CLAIMS)
    assert schema["properties"]["rule"]["enum"] == list(RULES)
    validator, optional = (
        jsonschema.Draft202012Validator(schema),
        {
            ("size", "controlled"),
            ("arithmetic", "controlled"),
            ("sign", "as_published"),
            ("significance", "in_bounds"),
        },
    )
    for rule in RULES:
        entry = next(entry for entry in ENTRIES if entry["rule"] == rule)
        assert validator.is_valid(entry)
        for field in verdicts.reads(rule):
            may_lack = "config" in entry or (rule, field) in optional
            assert validator.is_valid(entry | {field: None}) == may_lack
        wrong_protocol = entry | {"as_published": "norms:sae/r/controlled"}
        assert validator.is_valid(wrong_protocol) == (rule == "setting")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1, 2]", "list of objects"), ("{", "cannot be read"), (None, "is missing")],
)
def test_a_malformed_file_is_named(tmp_path, text, message):
    file = tmp_path / "paper_values.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(store.StoreError, match=message):
        ledger.entries(file)


# --- the ledger --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "RESULTS", tmp_path)
    return profiles.smoke()


def report(profile, chapter, *values):
    results.save(profile, chapter, estimates.tidy(values), seed=0)


def rows(profile):
    return {row["id"]: row for row in ledger.build(profile)}


def test_without_results_all_claims_are_pending(profile):
    assert {"pending", "not testable here", "setting"} < set(VERDICTS)
    for entry, row in zip(ENTRIES, ledger.build(profile), strict=True):
        assert set(row) == {
            "id",
            "paper",
            "as_published",
            "controlled",
            "verdict",
            "why",
            "chapter",
            "each_seed",
        }
        if entry["rule"] == "untestable":
            assert row["verdict"] == "not testable here"
        elif "config" in entry:
            assert row["verdict"] == "setting" and row["controlled"]["value"] is not None
        else:
            assert row["verdict"] == "pending" and "has not been run in this profile" in row["why"]


def test_a_row_says_what_each_seed_would_have_said_alone(profile):
    """The paper's 41.3 %: of three seeds one lies beyond half of it, one below a tenth, one over a
    border; all three together lie between."""
    alone = [[30.0, 28.0, 32.0], [1.0, 0.0, 2.0], [10.0, -20.0, 40.0]]
    every = under(CONTROLLED, 12.0, ci=[11.9, 12.1]) | {"of": "articles x 3 seeds"}
    published = under(PUBLISHED, 70.0, ci=[60.0, 80.0])
    report(profile, "reconstruction", every | {"each_seed": alone}, published)
    row = rows(profile)[GAIN["id"]]
    assert row["verdict"] == "partly"
    assert row["each_seed"] == ["reproduced", "not reproduced", "undecided"]
    report(profile, "reconstruction", every, published)
    assert rows(profile)[GAIN["id"]]["each_seed"] == []


GAIN = {entry["id"]: entry for entry in ENTRIES}["abs_joint_recon_improvement"]
CONTROLLED, PUBLISHED, (BESIDE, *_) = GAIN["controlled"], GAIN["as_published"], GAIN["beside"]


def under(key, x, **more):
    """An estimate that gets this key's id."""
    model, quantity, *part, protocol = key.partition(":")[2].split("/")
    names = {"part": "/".join(part), "protocol": protocol.replace("_", " ")}
    return of(quantity, x, model=model, **names, **more)


def of(quantity, x, model="joint", ci=None, unit="%", protocol="controlled", **names):
    """An estimate over twelve articles."""
    lo, hi = ci or (None, None)
    row = {"model": model, "quantity": quantity, "protocol": protocol, "value": x} | names
    return row | {"lo": lo, "hi": hi, "n": 12, "of": "articles", "unit": unit}


def published(quantity, x, **more):
    return of(quantity, x, protocol="as published", **more)


def test_a_row_carries_the_numbers_and_says_them(profile):
    report(
        profile,
        "reconstruction",
        under(PUBLISHED, 26.125),
        under(CONTROLLED, 5.5, ci=(5.0, 6.0)),
        under(BESIDE, 0.75, ci=(-0.5, 2.0)),
    )
    row = rows(profile)["abs_joint_recon_improvement"]
    assert (
        row["verdict"] == "partly" and row["chapter"] == "reconstruction" and row["paper"] == 41.3
    )
    assert row["as_published"] == {
        "value": 26.125,
        "ci": None,
        "n": 12,
        "of": "articles",
        "unit": "%",
    }
    assert row["controlled"] == {
        "value": 5.5,
        "ci": [5.0, 6.0],
        "n": 12,
        "of": "articles",
        "unit": "%",
    }
    for text in ("41.3 %", "26.12 %", "5.5 %", "5 to 6", "12 articles", "20.65", "0.75 %"):
        assert text in row["why"]
    page = (
        ledger.chapter(profile, "reconstruction")
        .set_index("what")
        .loc["Joint training: reconstruction error cut"]
    )
    assert page["ours, as published"].startswith("26.12 %") and page["ours, controlled"].startswith(
        "5.5 %"
    )


def test_a_value_that_its_chapter_has_not_reported_is_pending_and_named(profile):
    report(profile, "reconstruction", under(PUBLISHED, 26.0))
    row = rows(profile)["abs_joint_recon_improvement"]
    assert row["verdict"] == "pending" and "joint/gain_vs_sae_tuned/controlled" in row["why"]
    assert row["as_published"]["value"] == 26.0
    assert row["why"].startswith(
        "Chapter reconstruction has not reported joint/gain_vs_sae_tuned/contr"
    )


def test_a_published_value_that_is_missing_for_a_reason_does_not_decide(profile):
    none = under(PUBLISHED, None, unit="the chapter says why")
    report(profile, "reconstruction", none, under(CONTROLLED, 5.5, ci=(5.0, 6.0)))
    assert rows(profile)["abs_joint_recon_improvement"]["verdict"] == "partly"


def test_a_p_value_decides_about_an_F(profile):
    report(
        profile,
        "interactions",
        published("max_F", 31.0, model="secondary", unit="F"),
        of("best_F", 3.0, model="secondary", unit="F"),
        of("best_p", 0.2, model="secondary", unit="p"),
    )
    row = rows(profile)["feature_4022_F"]
    assert (
        row["verdict"] == "undecided" and row["controlled"]["value"] == 3.0 and "0.2" in row["why"]
    )


def test_a_setting_may_come_from_a_chapter(profile):
    report(
        profile,
        "interactions",
        of("secondary_d_sae", 1350, model="setting", unit="features", protocol="setting"),
    )
    row = rows(profile)["sec_width"]
    assert (
        row["verdict"] == "setting" and row["controlled"]["value"] == 1350 and "1350" in row["why"]
    )


def test_a_value_that_is_missing_for_a_reason_is_not_judged(profile):
    report(
        profile,
        "reconstruction",
        published("mse", None, model="sae", unit="MSE"),
        of("mse", 0.4, model="sae", unit="MSE"),
    )
    assert rows(profile)["sae_recon_loss"]["verdict"] == "not testable here"


def test_a_value_in_another_unit_is_refused(profile):
    report(
        profile, "reconstruction", under(PUBLISHED, 26.0), under(CONTROLLED, 0.045, unit="share")
    )
    with pytest.raises(
        store.StoreError, match="joint/gain_vs_sae_tuned/controlled are in 'share'.*in '%'"
    ):
        ledger.build(profile)


def test_a_list_is_refused_where_one_number_is_judged(profile):
    report(profile, "reconstruction", under(PUBLISHED, 26.0), under(CONTROLLED, [1.0, 2.0]))
    with pytest.raises(store.StoreError, match="must be one number"):
        ledger.build(profile)


def test_written_ledger_holds_every_id_and_summary_counts_them(profile):
    file = ledger.write(profile)
    assert file == results.folder(profile) / "ledger.json"
    assert [row["id"] for row in json.loads(file.read_text(encoding="utf-8"))] == [
        entry["id"] for entry in ENTRIES
    ]
    assert {row["verdict"] for row in json.loads(file.read_text(encoding="utf-8"))} <= set(VERDICTS)
    last = ledger.chapter(profile, "norms")
    columns = ["what", "paper", "ours, as published", "ours, controlled", "verdict"]
    assert list(last) == [*columns, "published run, `full`"]
    assert list(ledger.chapter(profiles.full(), "norms")) == columns  # itself the published one
    assert len(last) == sum(entry["chapter"] == "norms" for entry in ENTRIES)


def test_a_chapters_table_says_what_the_published_run_came_to(profile, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "PUBLISHED", tmp_path / "published")
    theirs = [under(PUBLISHED, 30.0), under(CONTROLLED, 10.0, ci=(9.0, 11.0))]
    file = results.save(profile, "reconstruction", estimates.tidy(theirs), seed=0)
    (tmp_path / "published").mkdir()
    file.parent.rename(tmp_path / "published" / "full")
    for ci, verdict, sign in [((4.9, 5.1), "partly", "="), ((-1.0, 7.0), "undecided", "≠")]:
        report(profile, "reconstruction", under(PUBLISHED, 26.0), under(CONTROLLED, 5.0, ci=ci))
        table = ledger.chapter(profile, "reconstruction").set_index("what")
        row = table.loc["Joint training: reconstruction error cut"]
        assert row["verdict"] == verdict
        said = f"{sign} partly: 10 % (95 % interval 9 to 11, n = 12 articles)"
        assert row["published run, `full`"] == said


# --- the committed results ---------------------------------------------------------------------------------------------------------

COMMITTED = sorted(
    f for profile in ("laptop", "full") for f in (places.PUBLISHED / profile).glob("*.json")
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
        if entry[field].partition(":")[0] == file.stem
        and entry[field].partition(":")[2] not in values
    }
    assert missing == set()


@pytest.mark.parametrize(
    "file", [f for f in COMMITTED if f.stem != "ledger"], ids=lambda f: f"{f.parent.name}/{f.stem}"
)
def test_a_committed_estimate_is_called_by_its_columns(file):
    table = results.table(file)
    assert list(table.index) == [estimates.identifier(row) for row in table.itertuples()]


@pytest.mark.parametrize(
    "file", [f for f in COMMITTED if f.stem == "ledger"], ids=lambda f: f.parent.name
)
def test_the_committed_ledger_follows_from_the_committed_results(file):
    assert json.loads(file.read_text(encoding="utf-8")) == ledger.build(
        profiles.get(file.parent.name), file.parent
    )


@pytest.mark.parametrize("label", ["laptop", "full"])
def test_the_committed_results_come_from_the_locked_versions(label):
    """An update of the lock may move a verdict: whoever makes it computes the results anew, and sees which (`make publish-results`)."""
    lines = (places.PROJECT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = {canonicalize_name(name): v for name, _, v in (line.partition("==") for line in lines)}
    for file in results.files(places.PUBLISHED / label):
        stamped = results.read(file)["provenance"]["versions"]
        moved = {
            name: (version, locked[name])
            for name, version in stamped.items()
            if Version(version).public != locked[name]
        }
        remedy = f"`make book PROFILE={label}`, then `make publish-results PROFILE={label}`"
        assert not moved, f"{file}: computed with another version than the lock's; {remedy}"


def test_a_value_as_published_that_cannot_be_compared_does_not_decide(profile):
    """The splice as published sits at the floor: its ratio of 2.9 is near the paper's 2.99, the controlled one is not."""
    report(
        profile,
        "behaviour",
        published("kl_ratio", 2.9, model="sae", unit="x"),
        of("kl_ratio", 1.6, model="sae", unit="x", ci=(1.5, 1.7)),
    )
    row = rows(profile)["kl_seq_sae_ratio"]
    assert (row["verdict"], row["as_published"]["value"]) == ("not reproduced", 2.9)
    assert "As published not comparable: raw activations go into an SAE" in row["why"]
    entry = next(e for e in ENTRIES if e["id"] == "kl_seq_sae_ratio")
    alone = ledger.decide(entry | {"controlled": None}, {"as_published": None}, {})
    assert alone[0] == "pending"
    (value,) = estimates.tidy([published("kl_ratio", 2.9, model="sae", unit="x")]).iloc
    verdict, why = ledger.decide(entry | {"controlled": None}, {"as_published": value}, {})
    assert verdict == "not comparable" and "raw activations" in why[1]


def test_numbers_that_rest_on_one_value_are_one_claim(roles):
    by_id = {entry["id"]: roles.deciding(entry) for entry in ENTRIES}
    assert by_id["seq_val_reduction"] == by_id["seq_train_reduction"]
    assert (
        by_id["feature_4022_F"]
        == by_id["feature_4022_p"]
        == "interactions:secondary/best_p/controlled"
    )
    assert (
        by_id["seq_val_sae_error"]
        == "reconstruction:sequential_own_path/mse/validation/as_published"
    )
    assert by_id["setup_ram"] == "setup_ram" != by_id["setup_gpu_mem"]


@pytest.mark.parametrize(
    "file", [f for f in COMMITTED if f.stem == "ledger"], ids=lambda f: f.parent.name
)
def test_enough_claims_are_decided_for_the_false_coverage_rate_that_is_promised(file, roles):
    """99 % intervals keep it at 5 % as long as a fifth of the claims are decided."""
    assert pytest.approx(0.2) == verdicts.DECIDED_SHARE
    judged = dict.fromkeys(("undecided", *verdicts.DECIDED))
    entry = {e["id"]: e for e in ENTRIES}
    claims = {
        verdict: {
            roles.deciding(entry[r["id"]])
            for r in json.loads(file.read_text(encoding="utf-8"))
            if r["verdict"] == verdict
        }
        for verdict in judged
    }
    decided = set().union(*(claims[v] for v in verdicts.DECIDED)) - claims["undecided"]
    assert len(decided) >= verdicts.DECIDED_SHARE * len(set().union(*claims.values()))
