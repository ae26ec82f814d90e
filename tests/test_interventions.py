"""Clamps against the model's own forward pass with the code changed, and against the formula of the published splice."""

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from companion import profiles, variants
from featint import activations, harvest, interventions, lm, runs
from featint.config import NFMConfig, SAEConfig, TrainConfig
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.lm import Reading
from featint.nfm import NFM
from featint.sae import TopKSAE
from featint.secondary import SecondarySAE

PROMPTS = ["city river number", "the war of iron gold code", "a king in"]
WORDS = pd.DataFrame(
    [
        ("city", "formal", "neutral", 9),
        ("river", "formal", "emotional", 10),
        ("code", "casual", "neutral", 24),
        ("light", "casual", "emotional", 25),
    ],
    columns=["word", "formality", "emotion", "token_id"],
)


@pytest.fixture(scope="module")
def setting(lm_folder, corpus_file, tmp_path_factory):
    """Site, base model and secondary SAE on the tiny language model."""
    from featint.config import CorpusConfig, HarvestConfig, LMConfig

    with pytest.MonkeyPatch.context() as m:
        m.setenv("FEATINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        config = HarvestConfig(
            lm=LMConfig(name=str(lm_folder)),
            corpus=CorpusConfig(
                name=str(corpus_file), seq_len=16, validation_fraction=0.1, test_fraction=0.2
            ),
            hook_point="blocks.1.hook_resid_post",
            dtype="float32",
        )
        harvest.harvest(config)
        p = replace(
            profiles.smoke(),
            d_in=32,
            harvest=config,
            sae=SAEConfig(d_sae=64, k=6),
            nfm=NFMConfig(d_factor=4),
            train=TrainConfig(n_tokens=64 * 60, batch_tokens=64, lr=1e-2, dead_after_tokens=1000),
        )
        base, inside = (runs.get(variants.get(name, p)) for name in ("sequential", "secondary"))
        acts = activations.load(config, "train")
        site = interventions.at_prompts(lm.load(config.lm), PROMPTS, WORDS, config.hook_point, acts)
        return site, base, inside


def test_prompts_are_read_as_if_each_stood_alone(setting):
    site, *_ = setting
    together = site.logits()
    for i, prompt in enumerate(PROMPTS):
        tokens, last = interventions.pad(site.lm, [prompt])
        assert int(last) == len(prompt.split()) == tokens.shape[1] - 1
        alone = site.lm.bridge(tokens, return_type="logits")[
            0, -1, torch.tensor(WORDS.token_id.tolist())
        ].double()
        torch.testing.assert_close(together[i], alone, rtol=1e-5, atol=1e-5)


def test_nothing_is_added_to_a_prompt_but_one_separator(setting):
    """Also by a tokenizer that would begin every text with it; the rest is filled up on the right."""
    site, *_ = setting
    backend = site.lm.tokenizer.backend_tokenizer
    ids = [site.lm.tokenizer.convert_tokens_to_ids(prompt.split()) for prompt in PROMPTS[::2]]
    wanted = [[0, *ids[0]], [0, *ids[1]]]
    assert list(map(len, wanted)) == [4, 4]
    before = backend.post_processor
    backend.post_processor = TemplateProcessing("<|endoftext|> $A", None, [("<|endoftext|>", 0)])
    try:
        assert site.lm.tokenizer("city")["input_ids"][0] == 0
        tokens, last = interventions.pad(site.lm, [*PROMPTS[::2], "war"])
    finally:
        backend.post_processor = before
    assert tokens.tolist() == [*wanted, [0, 15, 0, 0]] and last.tolist() == [3, 3, 1]


def test_what_a_clamp_adds_is_in_units_of_the_training_activations(setting):
    """A change of (1, 2, 3, ...) z-scores on every token but sinks adds as many deviations."""
    site, *_ = setting
    change = torch.arange(1.0, 33)
    raw = site.logits(lambda x: x + change * site.std)
    found = site.added(lambda z: change.expand(len(z), -1))
    torch.testing.assert_close(found, raw, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, site.logits(), atol=1e-2)
    # half of the z-score added: as if the activation were stretched from its mean
    stretched = site.replaced(lambda z: 1.5 * z)
    torch.testing.assert_close(site.added(lambda z: z / 2), stretched, rtol=1e-4, atol=1e-4)


def test_a_multiplier_of_one_changes_nothing_at_all(setting):
    site, base, inside = setting
    feature = int(
        inside.model.encode(base.model.nfm.hidden(base.model.encode(site.tokens))).indices[0, 0]
    )
    for change in (
        interventions.secondary(base.model, inside.model, feature, 1.0),
        interventions.primary(base.model, feature, 1.0),
    ):
        assert torch.equal(site.added(change), site.logits())


def test_a_primary_clamp_is_the_difference_of_two_decodings(setting):
    site, base, _ = setting
    model, x = base.model, site.tokens
    codes = model.encode(x)
    feature = int(codes.indices[0, codes.acts[0].argmax()])
    dense = codes.dense(model.d_sae)
    dense[:, feature] *= -4
    order = dense.abs().topk(codes.acts.shape[1]).indices  # all active features, in any order
    clamped = Codes(dense.gather(1, order), order)
    expected = model.decode(clamped) - model.decode(codes)
    torch.testing.assert_close(
        interventions.primary(model, feature, -4.0)(x), expected, rtol=1e-4, atol=1e-5
    )
    parts = [
        interventions.primary(model, feature, -4.0, (path,))(x)
        for path in ("sae_out", "linear_out", "interaction_out")
    ]
    torch.testing.assert_close(sum(parts), expected, rtol=1e-4, atol=1e-5)
    # what is left of the linear path: -5 times the code along the feature's row
    torch.testing.assert_close(
        parts[1],
        -5 * codes.dense(model.d_sae)[:, [feature]] * model.nfm.W_lin[feature],
        rtol=1e-4,
        atol=1e-6,
    )


def test_a_secondary_clamp_keeps_what_the_secondary_sae_leaves_over(setting):
    site, base, inside = setting
    model, x = base.model, site.tokens
    u = model.nfm.hidden(model.encode(x))
    codes = inside.model.encode(u)
    feature = int(codes.indices[0, codes.acts[0].argmax()])
    leftover = u - inside.model.decode(codes)
    clamped = inside.model.decode(interventions.multiplied(codes, feature, 4.0)) + leftover
    expected = (clamped.relu() - u.relu()) @ model.nfm.W_out
    torch.testing.assert_close(
        interventions.secondary(model, inside.model, feature, 4.0)(x),
        expected,
        rtol=1e-4,
        atol=1e-6,
    )
    assert expected.abs().max() > 0


def test_the_random_direction_has_the_same_norm_before_normalisation(setting):
    site, base, _ = setting
    x = site.tokens
    feature = int(base.model.encode(x).indices[0, 0])
    like = partial(interventions.primary, base.model, feature)
    for m, sign in {4.0: 1, 1.5: 1, 0.5: -1, -4.0: -1}.items():
        noise = interventions.random_direction(like, m, site.std, 0)(x) * site.std
        torch.testing.assert_close(noise.norm(dim=1), (like(m)(x) * site.std).norm(dim=1))
        some = noise[noise.norm(dim=1) > 0]
        direction = sign * some / some.norm(dim=1, keepdim=True)
        torch.testing.assert_close(direction, direction[:1].expand_as(direction))
        drawn = torch.randn(len(site.std), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(direction[0], drawn / drawn.norm())
    assert len(some) > 0


def test_the_published_splice_is_its_formula(setting):
    site, base, inside = setting
    model, x, m = base.model, site.reading.x.flatten(0, 1), -4.0
    dense = model.encode(x).dense(model.d_sae)
    rows = [int(dense.sum(0).argmax())]
    scaled = dense.clone()
    scaled[:, rows] *= m
    codes = inside.model.sae.encode(
        dense @ model.nfm.V @ model.nfm.W_hidden + model.nfm.b_hidden
    ).dense(inside.model.d_sae)
    feature = int(codes.sum(0).argmax())
    codes[:, feature] *= m
    u = codes @ inside.model.sae.W_dec
    expected = (
        dense @ model.sae.W_dec
        + scaled @ model.nfm.W_lin
        + model.nfm.b_lin
        + u.relu() @ model.nfm.W_out
        + model.nfm.b_out
    )
    found = interventions.published(model, inside.model, feature, m, rows)(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    # without a feature nothing is multiplied inside, whatever the multiplier; and by 1 unless asked
    plain = interventions.published(model, inside.model)(x)
    same = interventions.published(model, inside.model, feature, linear=rows)(x)
    torch.testing.assert_close(plain, same)
    torch.testing.assert_close(interventions.published(model, inside.model, None, m)(x), plain)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_bad_features_and_multipliers_are_named(setting):
    site, base, inside = setting
    fired = torch.tensor([3, 0, 5, 1, 2, 2, 0, 2])
    for feature, message in {
        8: "feature = 8 is out of range; there are 8 features, 0 to 7",
        -1: "out of range",
        1: r"feature = 1 is dead.*; live are \[0, 2, 3, 4, 5\], \.\.\.",
    }.items():
        with pytest.raises(ValueError, match=message):
            interventions.check_feature(feature, fired)
    for live in (0, 3, 7):
        interventions.check_feature(live, fired)
    for multiplier in (float("nan"), float("inf")):
        for clamp in (
            lambda m: interventions.primary(base.model, 0, m),
            lambda m: interventions.secondary(base.model, inside.model, 0, m),
        ):
            with pytest.raises(ValueError, match="multiplier = (nan|inf) must be a finite number"):
                clamp(multiplier)
    clamp = interventions.primary(base.model, 0, 4.0, ("nfm",))
    with pytest.raises(ValueError, match="'nfm'; the model has sae_out, linear_out, interaction_o"):
        clamp(site.tokens)


def test_shifts_are_of_every_clamp_at_every_multiplier(setting):
    """A multiplier of 1 is run for the first clamp only. Logits of the clamp less those without."""
    site, base, _ = setting
    feature = int(base.model.encode(site.tokens).indices[0, 0])
    clamp = partial(interventions.primary, base.model, feature)
    frame = site.shifts({"a": clamp, "b": clamp}, (-4.0, 1.0))
    assert frame.columns.tolist() == [
        *["prompt", "word", "formality", "emotion", "value", "condition", "multiplier"]
    ]
    assert frame.index.tolist() == list(range(36))
    runs_made = frame.groupby(["condition", "multiplier"], sort=False).size()
    assert runs_made.to_dict() == {("a", -4.0): 12, ("a", 1.0): 12, ("b", -4.0): 12}
    assert (frame.value[frame.multiplier == 1] == 0).all()
    expected = (site.added(clamp(-4.0)) - site.logits()).flatten().tolist()
    assert frame.value[:12].tolist() == expected and any(expected)
    row = frame.iloc[5]
    assert (row.prompt, row.word, row.formality) == (PROMPTS[1], "river", "formal")
    raw = site.shifts({"a": clamp}, (4.0,), run=site.replaced_raw, clean=torch.ones(3, 4))
    expected = (site.replaced_raw(clamp(4.0)) - 1).flatten().tolist()
    assert raw.value.tolist() == expected


def test_what_is_replaced_and_in_which_units(setting):
    """`replaced` hands over z-scores and takes z-scores back, at all tokens but sinks; `replaced_raw` has
    the raw activations of all of them, the separator before the prompt included."""
    site, *_ = setting
    same = site.replaced(lambda z: z)
    torch.testing.assert_close(same, site.logits(), rtol=1e-4, atol=1e-4)
    halved = site.logits(lambda x: site.mean + (x - site.mean) / 2)
    torch.testing.assert_close(site.replaced(lambda z: z / 2), halved, rtol=1e-4, atol=1e-4)
    seen = []
    raw = site.replaced_raw(lambda x: seen.append(x) or torch.zeros_like(x))
    torch.testing.assert_close(seen[0], site.reading.x.flatten(0, 1))
    assert not torch.allclose(raw, site.logits(torch.zeros_like), atol=1e-3)
    assert not torch.allclose(halved, site.logits(), atol=1e-3)


def test_mean_activations_of_texts_by_hand(setting, monkeypatch):
    """A "dictionary" of two features, 1 and a tenth of the first dimension: the mean of the first is 1,
    and that of the second over the tokens of each text, read alone, without the separator."""
    site, *_ = setting

    def encode(x):
        return torch.stack([torch.ones(len(x)), 0.1 * x[:, 0]], 1)

    hook_point = site.reading.hook_point
    default = interventions.mean_activations(site.lm, PROMPTS, hook_point, {"d": encode})["d"]
    monkeypatch.setattr(interventions, "BATCH_TEXTS", 2)
    means = {
        first: interventions.mean_activations(site.lm, PROMPTS, hook_point, {"d": encode}, first)[
            "d"
        ]
        for first in ("drop", "keep")
    }
    pd.testing.assert_frame_equal(default, means["drop"], atol=1e-5)
    assert default.index.tolist() == [0, 1, 2]
    assert means["drop"][0].tolist() == means["keep"][0].tolist() == [1, 1, 1]
    for i, prompt in enumerate(PROMPTS):
        alone = lm.read(site.lm, interventions.pad(site.lm, [prompt])[0], hook_point)
        x, sinks = alone.x[0, :, 0], alone.sinks[0]
        assert means["keep"][1][i] == pytest.approx(0.1 * x.mean().item(), rel=1e-4)
        assert means["drop"][1][i] == pytest.approx(0.1 * x[~sinks].mean().item(), rel=1e-4)
        assert sinks[0]


def test_a_secondary_feature_moves_something_only_where_a_relu_opens(setting):
    """Against every clamp carried out; where all ReLUs are shut, where features fire."""
    generator = torch.Generator().manual_seed(0)
    sae = TopKSAE(6, SAEConfig(d_sae=20, k=4), generator)
    model = JointSAE(sae, NFM(6, 20, NFMConfig(d_factor=3, dropout=0.0), generator)).eval()
    inner = TopKSAE(3, SAEConfig(d_sae=12, k=2), generator)
    inside = SecondarySAE(inner, torch.zeros(3), torch.full((3,), 0.01))
    tokens = torch.randn(9, 6, generator=generator)
    x = tokens.reshape(3, 3, 6)
    reading = Reading("blocks.0.hook_resid_post", torch.zeros(3, 3, dtype=torch.bool), x, x)
    mean, std = torch.zeros(6), torch.ones(6)
    site = replace(setting[0], reading=reading, prompts=list("abc"), mean=mean, std=std)
    with torch.no_grad():
        codes = inside.encode(model.nfm.hidden(model.encode(tokens)))
        fires = site.firing(codes, 12)
        slow = (codes.dense(12) > 0).reshape(3, 3, 12).any(1)
        assert torch.equal(fires, slow)
        for multipliers in ((-4.0, 0.0, 1.0, 4.0), (-4.0,), (0.0,), (2.0,), (4.0,)):
            moves = torch.zeros(3, 12, dtype=torch.bool)
            for i in range(12):
                for m in multipliers:
                    change = interventions.secondary(model, inside, i, m)(tokens)
                    moves[:, i] |= (change != 0).reshape(3, 3, 6).any(2).any(1)
            found = site.moving(model, inside, multipliers)
            assert torch.equal(found, moves) and found.any() and (fires & ~found).any()
        assert torch.equal(site.moving(model, inside, (1.0,)), fires)  # nothing moves
        model.nfm.b_hidden.fill_(-1e3)
        codes = inside.encode(model.nfm.hidden(model.encode(tokens)))
        assert torch.equal(site.moving(model, inside, (-4.0, 4.0)), site.firing(codes, 12))


def test_which_multiples_open_a_relu_by_hand(setting):
    """Two hidden units at -1 and -3. Feature 0, active at 1, writes to the first: three times more
    opens it; feature 1, at 2, to the second: six more; feature 2, at 0.5, away from the first: only
    -4 times it, 2.5 less than nothing."""
    inner = TopKSAE(2, SAEConfig(d_sae=3, k=3))
    nfm = NFM(4, 5, NFMConfig(d_factor=2, dropout=0.0))
    model = JointSAE(TopKSAE(4, SAEConfig(d_sae=5, k=2)), nfm).eval()
    x = torch.ones(1, 1, 4)
    reading = Reading("blocks.0.hook_resid_post", torch.zeros(1, 1, dtype=torch.bool), x, x)
    site = replace(
        setting[0], reading=reading, prompts=["a"], mean=torch.zeros(4), std=torch.ones(4)
    )
    with torch.no_grad():
        nfm.V.zero_()
        nfm.b_hidden.copy_(torch.tensor([-1.0, -3.0]))
        inner.W_enc.zero_()
        inner.b_enc.copy_(torch.tensor([1.0, 2.0, 0.5]))
        inner.W_dec.copy_(torch.tensor([[0.5, 0], [0, 0.5], [-0.5, 0]]))  # in units of the std, 2
    inside = SecondarySAE(inner, torch.zeros(2), torch.full((2,), 2.0))
    for multipliers, moves in {
        (4.0,): [True, True, False],
        (2.5,): [True, False, False],
        (-4.0,): [False, False, True],
        (0.0, -4.0, 2.5): [True, False, True],
        (1.0, 1.9): [True, True, True],  # none opens anything: where they fire
    }.items():
        assert site.moving(model, inside, multipliers).tolist() == [moves]


def test_multiplied_touches_one_feature_only():
    codes = Codes(torch.tensor([[1.0, 2.0], [3.0, 0.5]]), torch.tensor([[4, 7], [7, 1]]))
    assert interventions.multiplied(codes, 7, -4.0).acts.tolist() == [[1.0, -8.0], [-12.0, 0.5]]
    assert torch.equal(interventions.multiplied(codes, 3, -4.0).acts, codes.acts)
