"""The stimuli are matched as they say, and bad files are refused with the file, the line and the value."""

import json
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f_oneway

from companion import designs, stimuli
from featint import assets, store
from featint.config import LMConfig

HEADER = "topic,half,formality,emotion,text"
ROWS = [
    "sea,discovery,formal,emotional,The sea delights us.",
    "sea,discovery,formal,neutral,The sea is saline.",
    "sea,discovery,casual,emotional,Wow the sea.",
    "sea,discovery,casual,neutral,Yeah the sea.",
    "tea,confirmation,formal,emotional,We adore the beverage.",
    "tea,confirmation,formal,neutral,We consume the beverage.",
    'tea,confirmation,casual,emotional,"Love it, man."',
    "tea,confirmation,casual,neutral,It's hot.",
]
WORD_ROWS = [
    f"w{i},{f}-{e},{f},{e}"
    for i, (f, e) in enumerate(
        (f, e) for f in ("formal", "casual") for e in ("neutral", "emotional")
    )
]


def written(folder, rows, header=HEADER):
    file = folder / "own.csv"
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return file


def changed(row, old, new):
    """ROWS with one row edited; row 0 is line 2 of the file."""
    assert old in ROWS[row]
    return [*ROWS[:row], ROWS[row].replace(old, new), *ROWS[row + 1 :]]


SPELT = []


def one_token(text):
    if text not in SPELT:
        SPELT.append(text)
    return [SPELT.index(text)]


def spell(ids):
    return "".join(SPELT[i] for i in ids)


@pytest.fixture(scope="module")
def tokenizer():
    """The real tokenizer. Un-skip: `featint fetch`."""
    if not store.exists(assets.KIND, assets.identity(LMConfig().name)):
        pytest.skip("the language model is not in the cache; fetch it first")
    from featint import lm  # slow to import, and only needed here

    return lm.tokenizer(LMConfig())


@pytest.mark.parametrize("name", stimuli.DESIGNS)
def test_each_design_crosses_topic_with_its_cells(name):
    frame = stimuli.load(name)
    levels = stimuli.factors(frame)
    assert (frame.groupby(list(levels)).size() == 64).all() and len(frame) == 256
    assert frame.drop_duplicates("topic").half.value_counts().to_dict() == {
        "discovery": 32,
        "confirmation": 32,
    }
    assert frame.text.str.lower().is_unique
    sorted_in = designs.cells(frame, pd.DataFrame({"row": np.arange(256)}), levels)
    assert sorted_in.shape == (64, 4, 1), "the analysis takes the design as it is"


def relative_spread(means):
    return means.max() / means.min() - 1


@pytest.mark.parametrize("name", stimuli.DESIGNS)
def test_cells_are_matched_in_words_and_punctuation(name):
    frame = stimuli.load(name)
    assert (
        relative_spread(
            frame.text.str.split()
            .str.len()
            .groupby([frame[f] for f in stimuli.factors(frame)])
            .mean()
        )
        < 0.05
    )
    assert frame.text.map(lambda t: bool(re.fullmatch(r"[A-Z][A-Za-z ]+\.", t))).all(), (
        "letters, spaces and one full stop at the end"
    )


@pytest.mark.smoke
@pytest.mark.parametrize("name", stimuli.DESIGNS)
@pytest.mark.parametrize("half", [None, *stimuli.HALVES])
def test_cells_are_matched_in_tokens(name, half, tokenizer):
    frame = stimuli.load(name)
    frame = frame[frame.half == half] if half else frame
    table = stimuli.matching(
        frame, lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])
    )
    assert relative_spread(table.tokens) < 0.05


@pytest.mark.parametrize("name", stimuli.DESIGNS)
def test_no_content_word_marks_a_cell(name):
    """Apart from the markers of negation and tense themselves, no word that one level lacks is in over a fifth of the other level's sentences."""
    frame = stimuli.load(name)
    markers = {"not", "no", "never", "will", "be", "was"}
    words = frame.text.str.lower().str.findall("[a-z]+").map(set)
    for factor, levels in stimuli.factors(frame).items():
        for level in levels:
            here, there = (
                Counter(w for s in words[side] for w in s)
                for side in (frame[factor] == level, frame[factor] != level)
            )
            only = {w: n for w, n in here.items() if not there[w] and n > 0.2 * 128}
            assert set(only) <= markers, f"{factor} = {level} can be told by {only}"


def test_shuffled_labels_stay_in_their_topic():
    frame = stimuli.load("formality_emotion")
    null = stimuli.shuffle_labels(frame, seed=3)
    pd.testing.assert_frame_equal(null[["topic", "half", "text"]], frame[["topic", "half", "text"]])
    assert (null.groupby("topic")[["formality", "emotion"]].value_counts() == 1).all()
    assert (null.groupby("topic").size() == 4).all()
    pd.testing.assert_frame_equal(null, stimuli.shuffle_labels(frame, seed=3))
    assert not null.equals(stimuli.shuffle_labels(frame, seed=4))
    pd.testing.assert_frame_equal(
        frame, stimuli.load("formality_emotion"), obj="the frame that was shuffled"
    )


def test_shuffled_labels_are_independent_of_the_true_ones():
    frame = stimuli.load("negation_tense")
    kept = [
        (stimuli.shuffle_labels(frame, seed)[["negation", "tense"]] == frame[["negation", "tense"]])
        .all(axis=1)
        .mean()
        for seed in range(40)
    ]
    # each of 40 x 256 labels is kept with probability 1/4; the number kept in a random permutation of 4 has variance 1
    assert abs(np.mean(kept) - 0.25) < 4 * np.sqrt(1 / (40 * 64)) / 4


def test_matching_counts_what_a_reader_would_count(tmp_path):
    """Formal and emotional: "The sea delights us." and "We adore the beverage.", 4 words each, 20 and 22
    characters. Casual, neutral: "Yeah the sea.", 3 words, and "It's hot.", 2 words and an apostrophe."""
    frame = stimuli.load(written(tmp_path, ROWS))
    table = stimuli.matching(frame, lambda text: len(text.split()))
    table = table.set_index(["formality", "emotion"])
    assert table.columns.tolist() == [
        *["sentences", "tokens", "tokens_sd", "words", "characters", "full_stops", "other_marks"]
    ]
    assert table.loc[("formal", "emotional")].tolist() == [2, 4, 0, 4, 21, 2, 0]
    assert table.loc[("casual", "neutral")].tolist() == [2, 2.5, 0.5**0.5, 2.5, 11, 2, 1]


def test_own_factors_take_their_levels_from_the_file(tmp_path):
    rows = [f"x,discovery,{a},{b},{a} {b}" for a in "ab" for b in "cd"]
    frame = stimuli.load(written(tmp_path, rows, "topic,half,mood,voice,text"))
    assert stimuli.factors(frame) == {"mood": ("a", "b"), "voice": ("c", "d")}
    rows = ["x,discovery,a,e,typo", *rows, *rows]
    frame = stimuli.load(written(tmp_path, rows, "topic,half,mood,voice,text"))
    assert stimuli.factors(frame)["voice"] == ("c", "d")  # the two commonest
    rows = [f"x,discovery,a,{label},{label}" for label in "cdee"]
    frame = stimuli.load(written(tmp_path, rows, "topic,half,mood,voice,text"))
    assert stimuli.factors(frame)["voice"] == ("c", "e")


@pytest.mark.parametrize(
    "rows, message",
    [
        (changed(5, "confirmation", "test"), "line 7: half = 'test' is not known; allowed: disc"),
        (changed(3, "discovery", "confirmation"), "line 2: topic 'sea' is in both halves"),
        (changed(1, "The sea is saline.", "  "), "line 3: text is empty"),
        (changed(0, ",The sea delights us.", ""), "line 2: text is empty"),
        (changed(0, "delights", ", delights"), "line 2: longer than the header"),
        (changed(6, '"', ""), "Expected 5 fields in line 8, saw 6"),
    ],
)
def test_bad_stimuli_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=f"own.csv.*{re.escape(message)}"):
        stimuli.load(written(tmp_path, rows))


@pytest.mark.parametrize("between", [";", "\t", " ; "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_semicolons_and_tabs_are_as_good_as_commas(tmp_path, between, encoding):
    wanted = stimuli.load(written(tmp_path, ROWS))
    file = tmp_path / "other.csv"
    lines = [between.join(wanted), *(between.join(row) for row in wanted.to_numpy())]
    file.write_text("\r\n".join(lines), encoding=encoding)
    pd.testing.assert_frame_equal(stimuli.load(file), wanted)
    with pytest.raises(ValueError, match="other.csv lacks the columns text"):
        file.write_text(
            file.read_text(encoding=encoding).replace("text", "words", 1), encoding=encoding
        )
        stimuli.load(file)


@pytest.mark.parametrize("load", [stimuli.load, stimuli.load_prompts])
def test_a_folder_or_an_empty_file_is_no_table(tmp_path, load):
    with pytest.raises(ValueError, match=f"{tmp_path.name}'? .*a folder|neither a file"):
        load(tmp_path)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match="empty.csv: No columns"):
        load(tmp_path / "empty.csv")
    with pytest.raises(ValueError, match="gone.csv.* (missing|neither)"):
        load(tmp_path / "gone.csv")


def test_a_measure_of_a_word_that_is_not_known_is_no_obstacle(tmp_path):
    rows = [f"{row},n/a" for row in WORD_ROWS]
    words = stimuli.load_words(
        one_token, spell, written(tmp_path, rows, "word,group,formality,emotion,zipf")
    )
    assert words.zipf.tolist() == ["n/a"] * 4 and words.word.tolist() == ["w0", "w1", "w2", "w3"]


def test_bad_stimulus_files_are_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match="'formality' are neither a file nor one of formality_emotion, negation_tense",
    ):
        stimuli.load("formality")
    with pytest.raises(
        ValueError, match="has topic, half, formality, text; it needs exactly two factors"
    ):
        stimuli.load(written(tmp_path, ["a,discovery,formal,b"], "topic,half,formality,text"))
    file = tmp_path / "latin.csv"
    file.write_bytes((HEADER + "\nsea,discovery,formal,neutral,caf\xe9\n").encode("latin-1"))
    with pytest.raises(ValueError, match="latin.csv: .*save as UTF-8"):
        stimuli.load(file)


def test_word_groups_are_complete_and_matched():
    words = stimuli.load_words(one_token, spell)
    assert (words.group.value_counts() == 16).all() and words.group.nunique() == 4
    for measure in ("log10_count", "zipf"):
        groups = [rows.to_numpy(float) for _, rows in words.groupby("group")[measure]]
        assert f_oneway(*groups).pvalue > 0.1, measure
        assert np.ptp([g.mean() for g in groups]) < 0.35, measure
    assert [SPELT[i] for i in words.token_id] == [f" {w}" for w in words.word], (
        "ids come from the given tokenizer, with the leading space"
    )


@pytest.mark.smoke
def test_words_are_single_tokens_of_the_real_tokenizer(tokenizer):
    words = stimuli.load_words(
        lambda text: tokenizer.encode(text, add_special_tokens=False), tokenizer.decode
    )
    assert [tokenizer.decode([i]) for i in words.token_id] == [f" {w}" for w in words.word]
    recorded = pd.read_csv(stimuli.WORDS)
    assert words.token_id.tolist() == recorded.token_id.tolist()
    groups = [np.log10(rows.to_numpy()) for _, rows in words.groupby("group").token_id]
    assert f_oneway(*groups).pvalue > 0.5, "merge rank"


@pytest.mark.smoke
def test_recorded_counts_are_those_of_the_corpus():
    if not store.exists(assets.KIND, assets.identity("wikipedia-summaries")):
        pytest.skip("the text is not in the cache; fetch it first")
    articles = json.loads(assets.path("wikipedia-summaries").read_text(encoding="utf-8")).values()
    counts = Counter(
        w for article in articles for w in re.findall("[a-z]+", article["extract"].lower())
    )
    words = stimuli.load_words(one_token, spell)
    assert np.allclose(
        words.log10_count.astype(float), [np.log10(counts[w] + 1) for w in words.word], atol=5e-4
    )


@pytest.mark.parametrize(
    "rows, message",
    [
        (
            [*WORD_ROWS, "x,formal-neutral,casual,neutral"],
            "line 6: group 'formal-neutral' is not casual-neutral",
        ),
        ([*WORD_ROWS, ",formal-neutral,formal,neutral"], "line 6: word is empty"),
    ],
)
def test_bad_words_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=f"own.csv.*{re.escape(message)}"):
        stimuli.load_words(
            one_token, spell, written(tmp_path, rows, "word,group,formality,emotion")
        )


def test_words_of_several_tokens_are_left_out_as_many_of_each_group(tmp_path):
    def encode(text):  # like a piece that is not known, or two
        whole = text not in (" w4", " w7")
        return one_token(text) if whole else one_token("<unk>") * (1 + (text == " w7"))

    more = [
        f"w{4 * i + j},{row.partition(',')[2]}" for i in range(3) for j, row in enumerate(WORD_ROWS)
    ]
    file = written(tmp_path, more, "word,group,formality,emotion")
    assert len(stimuli.load_words(one_token, spell, file)) == 12
    words = stimuli.load_words(encode, spell, file)
    assert (words.group.value_counts() == 2).all()
    assert words.word.tolist() == ["w0", "w1", "w2", "w3", "w5", "w6", "w8", "w11"]


def test_too_few_words_of_one_token_are_refused_with_the_pieces_of_the_first(tmp_path):
    rows = [*WORD_ROWS, "skedaddle,casual-neutral,casual,neutral"]
    file = written(tmp_path, rows, "word,group,formality,emotion")

    def encode(text):
        return (
            [*one_token(" skeda"), *one_token("ddle")] if text == " skedaddle" else one_token(text)
        )

    said = (
        "own.csv, line 6: word 'skedaddle' is several tokens .*, ' skeda' \\+ 'ddle'; 1 of its like"
    )
    with pytest.raises(ValueError, match=said):
        stimuli.load_words(encode, spell, file)
    with pytest.raises(ValueError, match="lacks the columns emotion, group"):
        stimuli.load_words(one_token, spell, written(tmp_path, ["a,formal"], "word,formality"))


def test_prompts_are_distinct_openers(tmp_path):
    prompts = stimuli.load_prompts()
    assert len(prompts) >= 24 and len(set(prompts)) == len(prompts)
    assert all(3 <= len(p.split()) <= 8 and re.fullmatch("[A-Z][A-Za-z ]+", p) for p in prompts)
    inside = set(stimuli.load_words(one_token, spell).word)
    assert not any(inside & set(p.lower().split()) for p in prompts), (
        "no prompt holds a word that is scored after it"
    )
    with pytest.raises(ValueError, match="own.csv, line 3: prompt 'a' stands twice"):
        stimuli.load_prompts(written(tmp_path, ["a", "a"], "prompt"))
    with pytest.raises(ValueError, match="lacks the columns prompt"):
        stimuli.load_prompts(written(tmp_path, ["a"], "text"))
