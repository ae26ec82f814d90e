"""The author's tables: made-up ones of the same shape, cases by hand, and refusals that say what is wrong."""

import hashlib
import io
import itertools
import math
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pages
import pandas as pd
import pytest
from scipy import stats

from companion import cli, designs, ledger, notebook, places, profiles, results
from companion.chapters import author_data, interactions
from featint import store

PROMPTS, CLAMPS = ("I think", "It is", "We see"), (-4.0, 0.0, 4.0)
WORDS = {
    f"{formality[0]}{emotion[0]}{i}": (formality, emotion)
    for formality, emotion in itertools.product(("casual", "formal"), ("low", "high"))
    for i in (1, 2)
}
PAGE = pages.functions("author_data")


def clamping(effect: float, seed: int = 0) -> pd.DataFrame:
    """One feature's table: an interaction of `effect` per unit of the clamp, and noise per word."""
    rng = np.random.default_rng(seed)
    slope = {
        word: effect * (("formal" in w) == ("high" in w)) / 2 + 0.1 * bool(effect) * rng.normal()
        for word, w in WORDS.items()
    }
    rows = [
        (p, clamp, word, (clamp - 1) * (slope[word] + 0.01 * bool(effect) * rng.normal()), *w)
        for p, clamp, (word, w) in itertools.product(PROMPTS, CLAMPS, WORDS.items())
    ]
    columns = ["prompt", "clamp_value", "word", "logit_difference", "formality", "emotion"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(
        baseline_logit=1.0, logit_value=1.0 + frame.logit_difference, baseline_type="pipeline"
    )


def anova(frame: pd.DataFrame) -> pd.DataFrame:
    """The F tests that go with it, by the formulas of a one-way analysis."""
    rows = []
    for clamp, at in frame.groupby("clamp_value"):
        v = {
            cell: part.logit_difference.to_numpy()
            for cell, part in at.groupby(["formality", "emotion"])
        }
        pairs = [v["formal", "high"] - v["formal", "low"], v["casual", "high"] - v["casual", "low"]]
        sides = {
            "formality": [at.logit_difference[at.formality == x] for x in ("formal", "casual")],
            "emotion": [at.logit_difference[at.emotion == x] for x in ("low", "high")],
            "interaction": pairs,
        }
        row = {"clamp_value": clamp, "interaction_effect": abs(pairs[0].mean() - pairs[1].mean())}
        for effect, (a, b) in sides.items():
            within = (len(a) - 1) * np.var(a, ddof=1) + (len(b) - 1) * np.var(b, ddof=1)
            df = len(a) + len(b) - 2
            with np.errstate(invalid="ignore"):
                F = (np.mean(a) - np.mean(b)) ** 2 / (within / df * (1 / len(a) + 1 / len(b)))
            row |= {f"{effect}_f": F, f"{effect}_p": stats.f.sf(F, 1, df)}
        rows.append(row)
    return pd.DataFrame(rows)


FLAT = {
    "4022": "ablation_4022__logit_differences_features_4022.csv",
    "7": "ablation_7__logit_differences_features_7.csv",
    "8_9": "Linear__linear_logit_differences_features_8_9.csv",
}
LARGE = pd.DataFrame(
    {"mean": [1.0, 2.0, 0.5], "std": [2.0, 2.0, 1.0], "count": [400, 400, 2000]},
    index=["SAE_NFM", "SAE_only", "epsilon_random"],
)


@pytest.fixture
def folder(tmp_path):
    """Made-up tables: 4022 interacts, 7 a little, the linear control not at all."""
    for (feature, name), effect in zip(FLAT.items(), (1.0, 0.05, 0.0), strict=True):
        frame = clamping(effect, seed=len(feature))
        frame.to_csv(tmp_path / name, index=False)
        tests = name.replace("logit_differences", "anova_results_baseline")
        anova(frame).to_csv(tmp_path / tests, index=False)
    clean = clamping(0.0).query("clamp_value == 0")[["prompt", "word"]]
    clean = clean.assign(logit_value=1.0 + np.arange(len(clean)) % 3)
    clean.to_csv(tmp_path / "baseline_logit_results__x__baseline_logit_analysis.csv", index=False)
    LARGE.to_csv(tmp_path / "wiki_kl_results__wiki_kl_summary_statistics.csv")
    kinds = {"SAE_only": 2.0, "SAE_NFM": 1.5, "epsilon_random": 0.5}
    pilot = [
        (p, position, kind, kl * (1 + n) * (2 + position))
        for n, p in enumerate(PROMPTS)
        for position in range(2)
        for kind, kl in kinds.items()
    ]
    columns = ["prompt", "position", "intervention_type", "kl_divergence"]
    pilot = pd.DataFrame(pilot, columns=columns)
    pilot.to_csv(tmp_path / "kl_divergence_results__kl_divergence_results.csv", index=False)
    return tmp_path


class TestReading:
    def test_names_and_levels_are_ours_and_rows_that_stand_twice_are_kept(self, folder):
        frame = pd.read_csv(folder / FLAT["7"])
        twice = pd.concat([frame, frame[frame.clamp_value == 4]])
        twice.to_csv(folder / FLAT["7"], index=False)
        found = author_data.read(folder, "shifts")
        assert found.groupby("condition").size().to_dict() == {"4022": 72, "7": 96, "8_9": 72}
        assert set(found.emotion) == {"neutral", "emotional"}
        rows = found[found.condition == "7"]
        assert rows.value.tolist() == twice.logit_difference.tolist()
        assert rows.multiplier.tolist() == twice.clamp_value.tolist()
        assert set(author_data.read(folder, "anova").multiplier) == set(CLAMPS)
        assert author_data.read(folder, "large")["count"].tolist() == [400, 400, 2000]

    def test_a_checkout_of_the_repository_is_read_too(self, folder):
        for file in list(folder.glob("*.csv")):
            place = folder / "project" / file.name.replace("__", "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            file.rename(place)
        other = folder / "project" / "baseline_results" / "baseline_logits"
        other.mkdir(parents=True)
        (other / "baseline_logit_analysis.csv").write_text("not,this\n1,2\n", encoding="utf-8")
        sizes = {
            kind: len(author_data.read(folder, kind)) for kind in author_data.RELEASE["tables"]
        }
        assert sizes == {"shifts": 216, "anova": 9, "clean": 24, "pilot": 18, "large": 3}

    @pytest.mark.parametrize(
        "change, said",
        [
            (lambda f: f.drop(columns="word"), "column 'word' is missing; there are prompt, "),
            (lambda f: f.head(0), "has no rows"),
            (
                lambda f: f.assign(logit_difference=["oops", *f.logit_difference[1:]]),
                "logit_difference = .*nan.* in row 0 is not finite",
            ),
            (
                lambda f: f.assign(clamp_value=f.clamp_value.replace(4, np.inf)),
                "clamp_value = .*inf.* in row",
            ),
            (
                lambda f: f.drop(index=10),
                "clamp_value 0, prompt 'I think', word 'ch1' has 0 rows, not one",
            ),
            (
                lambda f: f[(f.clamp_value != 4) | (f.word != "fh2")],
                "clamp_value 4, prompt 'I think', word 'fh2' has 0 rows",
            ),
            (
                lambda f: pd.concat([f, f.head(1).assign(logit_difference=9)]),
                "clamp_value -4, prompt 'I think', word 'cl1' has 2 rows",
            ),
            (
                lambda f: f.assign(baseline_type=["raw", *f.baseline_type[1:]]),
                "'baseline_type' holds raw, pipeline; keep the rows of one",
            ),
            (
                lambda f: f.assign(emotion=f.emotion.replace("low", "none")),
                "row 0: emotion = 'none' is not known; allowed: 'neutral', 'emotional'",
            ),
            (
                lambda f: f.assign(formality=["formal", *f.formality[1:]]),
                "word 'cl1' is in two groups",
            ),
        ],
    )
    def test_a_table_of_another_shape_is_refused(self, folder, change, said):
        file = folder / FLAT["4022"]
        change(pd.read_csv(file)).to_csv(file, index=False)
        with pytest.raises(store.StoreError, match=f"{file.name}: .*{said}.* without --from"):
            author_data.read(folder, "shifts")

    def test_a_clamp_that_was_tested_and_is_gone_is_missed(self, folder):
        file = folder / FLAT["4022"]
        pd.read_csv(file).query("clamp_value != 4").to_csv(file, index=False)
        with pytest.raises(store.StoreError, match="feature 4022 lacks clamp_value 4, for which"):
            author_data.read(folder, "shifts")

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'"open\n1,2'])
    def test_what_is_no_table_is_named(self, folder, content):
        file = folder / "kl_divergence_results__kl_divergence_results.csv"
        file.write_bytes(content)
        with pytest.raises(store.StoreError, match=file.name):
            author_data.read(folder, "pilot")

    def test_a_folder_without_them(self, tmp_path):
        with pytest.raises(
            store.StoreError, match="holds no table .*kl_divergence.* without --from"
        ):
            author_data.read(tmp_path, "pilot")


class TestFetching:
    CONTENT = {"a/b.csv": b"x\n1\n", "c.csv": b"y\n2\n"}

    @pytest.fixture(autouse=True)
    def release(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FEATINT_CACHE", str(tmp_path))
        digests = {path: hashlib.sha256(x).hexdigest() for path, x in self.CONTENT.items()}
        monkeypatch.setattr(
            author_data, "RELEASE", {"address": "https://x.org/1", "sha256": digests}
        )

    def serve(self, monkeypatch, content):
        asked = []

        def urlopen(address, timeout):
            asked.append(address)
            return io.BytesIO(content[address.removeprefix("https://x.org/1/")])

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        return asked

    def test_tables_are_kept_under_flat_names_and_asked_for_once(self, monkeypatch):
        asked = self.serve(monkeypatch, self.CONTENT)
        folder = author_data.fetch()
        assert author_data.fetch() == folder and len(asked) == 2
        assert (folder / "a__b.csv").read_bytes() == b"x\n1\n"

    def test_another_table_is_refused_and_nothing_is_kept(self, monkeypatch):
        self.serve(monkeypatch, self.CONTENT | {"c.csv": b"changed"})
        with pytest.raises(store.StoreError, match="1/c.csv is not the table with the sha256"):
            author_data.fetch()
        assert not store.exists(author_data.KIND, author_data.RELEASE)

    def test_without_a_network_there_is_one_clear_message(self, monkeypatch, capsys):
        def urlopen(address, timeout):
            raise urllib.error.URLError("no network")

        monkeypatch.setattr(urllib.request, "urlopen", urlopen)
        assert cli.main(["author-data"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "cannot be had" in said and "--from FOLDER" in said


def test_the_command_hands_on_where_the_tables_are(folder, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(notebook, "run", lambda *given: ran.append(given) or Path("page.ipynb"))
    monkeypatch.chdir(folder)
    assert cli.main(["author-data", "--from", ".", "--profile", "smoke"]) == 0
    assert ran == [("author_data", "smoke", {"folder": str(folder)})]
    assert "page.ipynb" in capsys.readouterr().out


def test_what_is_fetched_is_what_is_read():
    """Every listed file belongs to one kind of table, but for no file is its content kept here."""
    listed = author_data.RELEASE["sha256"]
    assert all(len(sha) == 64 for sha in listed.values()) and len(listed) == 17
    assert not [f for f in places.DATA.rglob("*.csv") if f.name in {Path(p).name for p in listed}]


class TestByHand:
    def test_the_released_test(self):
        """FH - FL = 1, 3 and CH - CL = 0, 0: F = 2^2 / (2/2 + 0/2) = 4. Formal words have mean 1, as
        casual ones: F = 0. Emotional 1, 3, 1, 1 and neutral 0, 0, 1, 1: F = 1 / (4/6 (1/4 + 1/4)) = 3."""
        words = [
            ("formal", "neutral", 0),
            ("formal", "emotional", 1),
            ("casual", "neutral", 1),
            ("casual", "emotional", 1),
            ("formal", "neutral", 0),
            ("formal", "emotional", 3),
            ("casual", "neutral", 1),
            ("casual", "emotional", 1),
        ]
        rows = pd.DataFrame(words, columns=["formality", "emotion", "value"])
        found = PAGE["published"](rows)
        assert found.interaction_F == pytest.approx(4) and found.formality_F == pytest.approx(0)
        assert found.interaction_p == pytest.approx(stats.f.sf(4, 1, 2))
        assert found.emotion_F == pytest.approx(3)
        assert found.contrast == 2 and found["rows"] == 8

    def test_a_tables_own_tests_come_out_again(self, folder):
        shifts, given = (author_data.read(folder, kind) for kind in ("shifts", "anova"))
        one = shifts[(shifts.condition == "7") & (shifts.multiplier == -4)]
        theirs = given[(given.condition == "7") & (given.multiplier == -4)].iloc[0]
        ours = PAGE["published"](one)
        for effect in ("formality", "emotion", "interaction"):
            assert ours[f"{effect}_F"] == pytest.approx(theirs[f"{effect}_f"])
            assert ours[f"{effect}_p"] == pytest.approx(theirs[f"{effect}_p"])

    def test_all_features_count_even_those_that_move_nothing(self, folder):
        slopes, tests = PAGE["tested"](author_data.read(folder, "shifts"))
        p, holm = (tests[x].xs("by word", level="test") for x in ("p", "p_holm"))
        assert math.isnan(p["8_9"]) and holm["8_9"] == 1
        assert p["4022"] < p["7"]
        assert holm["4022"] == pytest.approx(3 * p["4022"])
        assert holm["7"] == pytest.approx(min(1, max(2 * p["7"], 3 * p["4022"])))
        contrast = tests.estimate["4022", "by word"]
        assert contrast == pytest.approx(
            slopes["4022"].mean().groupby("cell").mean() @ designs.INTERACTION
        )
        assert contrast == pytest.approx(5, abs=2)  # 1 per unit of the clamp, times a dose of 5

    def test_equivalence_is_the_worse_of_two_one_sided_tests(self):
        row = pd.Series({"estimate": -1.0, "se": 0.5, "df": 10})
        worse = max(stats.t.sf((3 - 1) / 0.5, 10), stats.t.sf((3 + 1) / 0.5, 10))
        assert PAGE["equivalence_p"](row, 3.0) == pytest.approx(worse)
        assert PAGE["equivalence_p"](row, 0.5) > 0.5  # the estimate lies outside

    def test_a_splice_is_the_pipeline_less_the_clean_model(self, folder):
        shifts, clean = (author_data.read(folder, kind) for kind in ("shifts", "clean"))
        splice = PAGE["splice"](shifts[shifts.condition == "4022"], clean)
        assert splice.shape == (3, 8)
        table = clean.pivot(index="prompt", columns="word", values="logit_value")
        assert np.sort(splice, axis=1) == pytest.approx(np.sort(1 - table.to_numpy(), axis=1))

    def test_the_bound_is_a_tenth_of_what_moves_words_against_each_other(self):
        """Shifts 1, -1 and 3, 1: absolute 1.5 on average; less each prompt's mean 1, 1."""
        found = interactions.spliced(np.array([[1.0, -1.0], [3.0, 1.0]]))
        assert found.estimate.to_dict() == pytest.approx(
            {"moved": 1.5, "relative": 1.0, "bound": 0.1}
        )

    def test_dealt_anew_against_all_ways_to_deal(self):
        cells = pd.MultiIndex.from_arrays([[0, 1, 2, 3], list("abcd")], names=["cell", "word"])
        table = pd.DataFrame([[4.0, 1, 2, 5], [4, 1, 2, 5]], columns=cells)
        every = [abs(np.dot([1, -1, -1, 1], x)) for x in itertools.permutations([4, 1, 2, 5])]
        exact = np.mean([x >= 6 for x in every])
        assert PAGE["dealt_anew"](table) == pytest.approx(exact, abs=0.02)

    def test_without_each_word_against_the_formula_for_unequal_groups(self):
        rng = np.random.default_rng(1)
        cell = np.repeat(range(4), 3)
        names = pd.MultiIndex.from_arrays(
            [cell, [f"w{i}" for i in range(12)]], names=["cell", "word"]
        )
        y = rng.normal(size=12) + 3 * (cell == 3)
        largest = 0.0
        for i in range(12):
            groups = [y[(cell == c) & (np.arange(12) != i)] for c in range(4)]
            contrast = np.dot([1, -1, -1, 1], [g.mean() for g in groups])
            error = (
                sum(((g - g.mean()) ** 2).sum() for g in groups)
                / 7
                * sum(1 / len(g) for g in groups)
            )
            largest = max(largest, 2 * stats.t.sf(abs(contrast) / error**0.5, 7))
        table = pd.DataFrame([y - 1, y + 1], columns=names)
        assert PAGE["without_each"](table) == pytest.approx(largest)

    def test_ratio_and_cut_with_their_widest_intervals(self):
        """1/2 with errors of 2/10 on 1 and 2/10 on 2: 1.96 (0.2 + 0.1) of the ratio on either side."""
        nfm, sae = LARGE.loc["SAE_NFM"], LARGE.loc["SAE_only"]
        share = PAGE["ratio"](nfm, sae, 100)
        assert share == pytest.approx({"value": 0.5, "lo": 0.5 - 0.294, "hi": 0.5 + 0.294})
        cut = PAGE["cut"](nfm, sae, 100)
        assert cut == pytest.approx({"value": 50, "lo": 20.6, "hi": 79.4})
        assert PAGE["student_t"](sae, nfm) == pytest.approx(1 / (4 / 400 + 4 / 400) ** 0.5)

    def test_the_pilot_by_prompts(self, folder):
        """All prompts have the same ratios, so that leaving one out changes nothing."""
        found = PAGE["by_prompt"](author_data.read(folder, "pilot")).set_index("part")
        assert found.value.to_dict() == pytest.approx(
            {"reduction": 25.0, "SAE": 4.0, "SAE + NFM": 3.0}
        )
        assert found.lo.astype(float).tolist() == pytest.approx(found.value.astype(float).tolist())
        assert (found.n == 3).all()

    def test_whose_number_it_is(self):
        names = {"ledger": ledger, "of": lambda *_: pd.Series(dtype=float)}
        whose = pages.run("author_data", "author_data-whose", **names)["whose"]
        found = pd.Series({"a": 0.02727, "b": -0.0273, "c": 0.0259})
        assert (
            whose(0.0273, found) == "a, b"
            and whose(0.026, found) == "c"
            and whose(0.1, found) == ""
        )


def test_the_page_computes_and_saves_and_shows_the_published_without_tables(folder, monkeypatch):
    cells = nbformat.read(notebook.FOLDER / "author_data.ipynb", as_version=4).cells
    ids = [cell.id for cell in cells if cell.id.startswith("author_data-") and "-n" not in cell.id]
    settings = {"feature": 4022, "threshold": 0.02, "window": 4, "shuffles": 20, "began": 0.0}
    monkeypatch.setattr(places, "RESULTS", folder / "results")
    pages.run(
        "author_data", *ids[: ids.index("author_data-of") + 1], folder=str(folder), **settings
    )
    saved = results.table(folder / "results" / "author" / "author_data.json")
    assert saved.value["anova/largest_deviation/as_published"] < 1e-9
    assert (
        saved.value["8_9/rows_moved/controlled"] == 0 and saved.n["8_9/rows_moved/controlled"] == 72
    )
    assert saved.value["4022/prompts_moved/controlled"] == 3
    assert saved.value["4022/prompts_agreeing/controlled"] == 3
    assert saved.value["splice/bound/controlled"] > 0
    assert saved.value["sae_nfm/kl_reduction/large/controlled"] == pytest.approx(50)
    assert saved.n["sae_nfm/kl_reduction/large/controlled"] == 100
    assert saved.value["4022/slope_p_holm/both_random/controlled"] < 0.05
    monkeypatch.setenv("FEATINT_CACHE", str(folder / "cache"))
    monkeypatch.setattr(places, "RESULTS", folder / "none")
    shown = pages.run(
        "author_data", *ids[: ids.index("author_data-of") + 1], folder=None, **settings
    )
    published = results.table(places.PUBLISHED / places.AUTHOR / "author_data.json")
    assert not shown["have"] and shown["shown"].equals(published) and not (folder / "none").exists()
    missing = set(saved.index.str.replace(r"^(4022|7|8_9)/", "", regex=True)) - set(
        published.index.str.replace(r"^\d+(_\d+)?/", "", regex=True)
    )
    assert missing == set()


def test_the_ledger_quotes_them_and_they_decide_nothing():
    published = results.table(places.PUBLISHED / places.AUTHOR / "author_data.json")
    profile, place = profiles.laptop(), places.PUBLISHED / "laptop"
    here = ledger.measured(place)
    without = {key: x for key, x in here.items() if not key.startswith("author_data:")}
    quoted = 0
    for entry in ledger.entries():
        keys = [
            k.partition(":")[2] for k in entry.get("beside", {}) if k.startswith("author_data:")
        ]
        assert set(keys) <= set(published.index), entry["id"]
        with_, alone = (ledger.judge(entry, profile, x) for x in (here, without))
        assert with_["verdict"] == alone["verdict"]
        said = "from the author's own tables" in with_["why"]
        assert said == bool(keys) and "author's own tables" not in alone["why"]
        quoted += bool(keys)
    c6 = [entry for entry in ledger.entries() if entry["claim"] == "C6"]
    assert quoted > len(c6) and all("author_data:" in str(entry.get("beside")) for entry in c6)
