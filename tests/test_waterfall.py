"""The switches: what each protocol reads and compares, and that both orders run from the same start to the same end."""

import pytest
import torch

from companion import published, variants
from companion.chapters import waterfall
from companion.chapters.waterfall import Protocol
from featint import activations, runs, store


def test_both_orders_turn_the_same_switches_one_at_a_time():
    ends = set()
    for order in waterfall.ORDERS:
        protocols = [protocol for _, protocol in waterfall.steps(order)]
        for before, after in zip(protocols, protocols[1:], strict=False):
            assert (
                sum(getattr(before, f) != getattr(after, f) for f in Protocol.__dataclass_fields__)
                == 1
            )
        assert protocols[0] == Protocol()
        ends.add(protocols[-1])
    assert ends == {
        Protocol(reference="joint_no_interaction", text="test articles", first_position="drop")
    }
    assert len({frozenset(order) for order in waterfall.ORDERS.values()}) == 1
    assert set(waterfall.EXPLAINED) == set(waterfall.ORDERS["text first"])


def test_all_bars_come_from_the_chapters_models(p):
    """The flow trains what `CHAPTERS` lists; nothing else may be needed in the notebook."""
    listed = {store.key(variants.get(name, p)) for name in variants.CHAPTERS["waterfall"]}
    for order in waterfall.ORDERS:
        for label, protocol in waterfall.steps(order):
            assert {store.key(c) for c in waterfall.models(protocol, p) if c} <= listed, label


def test_the_published_protocol_is_the_own_path_on_the_published_sample(p):
    model = runs.get(variants.get("joint_published", p)).model
    sample = published.joint_tokens(activations.load(p.harvest, "train", "keep"), p)
    x = sample.rows(torch.arange(len(sample)))
    own = model.sae.decode(model.encode(x))
    errors = [
        (x_hat.double() - x.double()).square().sum().item() for x_hat in (model(x).x_hat, own)
    ]
    wanted = 100 * (1 - errors[0] / errors[1])
    assert waterfall.measure(Protocol(), p).value == pytest.approx(wanted, rel=1e-5)


def test_the_controlled_end_is_the_gain_on_test_articles(p):
    joint, reference = (
        runs.get(variants.get(name, p)).model for name in ("joint", "joint_no_interaction")
    )
    acts = activations.load(p.harvest, "test")
    x = acts.rows(torch.arange(len(acts))).double()
    errors = [(m(x.float()).x_hat.double() - x).square().sum().item() for m in (joint, reference)]
    row = waterfall.measure(waterfall.steps("text first")[-1][1], p)
    assert row.value == pytest.approx(100 * (1 - errors[0] / errors[1]), abs=1e-3)
    assert row.n == acts.article.unique().numel() and row.tokens == len(acts)


def test_bars_agree_where_the_orders_meet(p):
    found = waterfall.bars(p)
    first, second = found.values()
    for end in (0, -1):
        assert first["value"].iloc[end] == second["value"].iloc[end]
    assert first["change"].sum() == pytest.approx(first["value"].iloc[-1] - first["value"].iloc[0])
    assert waterfall.table(found).notna().all(axis=None)
    assert all(v.ci[0] <= v.value <= v.ci[1] for v in waterfall.values(found).values())


def test_the_mask_is_a_switch_of_the_joint_model_alone(p):
    ours, reference = waterfall.models(
        Protocol(nfm_sees="half", reference="sae", first_position="drop"), p
    )
    assert store.key(ours) == store.key(variants.get("joint_masked", p)) and store.key(
        reference
    ) == store.key(variants.get("sae", p))


def test_unknown_switches_are_named():
    with pytest.raises(ValueError, match="reference = 'none' is not known; allowed: 'own path'"):
        Protocol(reference="none")
    with pytest.raises(ValueError, match="order = 'x' is not known"):
        waterfall.steps("x")
