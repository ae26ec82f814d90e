"""Models of one size by counting, their worth and the interaction path's share by hand."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pages
import pandas as pd
import pytest
import torch

from companion import profiles
from companion.chapters import efficiency
from companion.figures import comparisons
from companion.plots import COLOURS
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.sae import TopKSAE


@pytest.fixture
def p():
    full = profiles.full()
    return replace(full, nfm=replace(full.nfm, dropout=0.3))


@pytest.mark.parametrize("width", [500, 1000, 4096])
@pytest.mark.parametrize("share", [1, 3, 5, 10])
def test_models_of_one_size_are_of_one_size(p, width, share):
    """An SAE of F features of 576 dimensions has F (2 x 576 + 1) + 576 parameters; off it is at most
    half a feature, which costs 1153, and half a factor."""
    config, wanted = efficiency.of_size(p, width, share), width * 1153 + 576
    with torch.device("meta"):  # without memory
        model = JointSAE(TopKSAE(576, config.sae), NFM(576, config.sae.d_sae, config.nfm))
    sizes = {name: weights.numel() for name, weights in model.named_parameters()}
    inside = sum(n for name, n in sizes.items() if name.startswith("nfm."))
    m = config.nfm.d_factor
    factor = config.sae.d_sae + 576 + 2 * m + 1  # a row of V, of both layers, a column of the first
    assert abs(sum(sizes.values()) - wanted) <= 1153 / 2 + factor / 2 + 1
    assert abs(inside - share / 100 * wanted) <= factor / 2 + 1
    assert "sae.b_dec" in sizes and not any("lin" in name for name in sizes)
    assert (config.base, config.sae.k, config.train.n_tokens) == (None, 84, 835_000 // 4)
    assert config.nfm.dropout == 0.3 and config.train.lr == p.train.lr


def test_without_a_share_it_is_an_sae_of_that_width(p):
    config = efficiency.of_size(p, 500, 0)
    assert (config.base, config.nfm, config.sae.d_sae) == (None, None, 500)
    assert (config.sae.k, config.sae.decoder_bias) == (84, True)
    assert config.train.n_tokens == 835_000 // 4


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.01, "share = 0.01 % of 115,876 parameters leaves 0 factors and 100 features"),
        (
            0.6,
            "share = 0.6 % of .* leaves 0 factors",
        ),  # 695: 576 for the output's bias, and a factor takes 677
        (30, "leaves 49 factors and 70 features: at least 1 and k = 84"),
        (16.5, "leaves 27 factors and 83 features"),  # 27 x 27 + 27 x 660 of 18,544
    ],
)
def test_a_share_without_room_is_refused(p, share, message):
    with pytest.raises(ValueError, match=message):
        efficiency.of_size(p, 100, share)


@pytest.mark.parametrize(
    ("share", "m", "d_sae"), [(0.8, 1, 99), (1.2, 1, 99), (13.2, 21, 87), (15.5, 25, 84)]
)
def test_one_factor_and_k_features_are_enough(p, share, m, d_sae):
    """0.8 % of 115,876 parameters are 927: 576 for the output's bias, 351 of a factor's
    677. 15.5 % are 17,385 beyond the bias: 25 x 25 + 25 x 661 = 17,150, and 26 would take 17,862. 13.2 % are
    14,720: less than 21.5 x 21.5 + 21.5 x 664 = 14,738."""
    config = efficiency.of_size(p, 100, share)
    assert (config.nfm.d_factor, config.sae.d_sae) == (m, d_sae)


def test_worth_as_an_sae_by_hand():
    """SAEs of 100 and 400 parameters with FVU 0.4 and 0.1: half the FVU takes twice the size. A
    model of 100 with 0.2 is worth 200, one of 400 with 0.2 as well; beyond the ends nothing is known."""
    curve = pd.DataFrame(
        [(0, 100, 0.4), (3, 100, 0.2), (0, 400, 0.1), (3, 400, 0.2), (5, 400, 0.09), (5, 100, 0.5)],
        columns=["share", "parameters", "fvu"],
    )
    expected = [1, 2, 1, 0.5, np.nan, np.nan]
    assert pages.functions("efficiency")["as_sae"](curve).tolist() == pytest.approx(
        expected, nan_ok=True
    )


def losses(**columns):
    return pd.DataFrame(columns, index=list("xyz")[: len(columns["none"])])


THREE = losses(none=[4, 4, 2], linear=[3, 3, 2], interaction=[4, 3, 2], both=[2, 2, 1])


def test_the_interaction_paths_share_by_hand():
    """Totals 10, 8, 9, 5: both remove 5. Interaction removes 1 if added alone, 3 if added last (8 to
    5), on average 2; linear would have 2, 4 and 3 of the 5."""
    for kind, share in (("alone", 20), ("last", 60), ("shapley", 40)):
        row = efficiency.interaction_share(THREE, kind, model="joint", quantity="q").iloc[0]
        assert row.value == pytest.approx(share) and row.lo < share < row.hi
        assert (row.model, row.quantity, row.part, row.n) == ("joint", "q", "", 3)
        assert (row.of, row.unit) == ("articles", "%")
    # alone: without one article 1 of 3, 0 of 3, 1 of 4; t(2) is 4.302653
    row = efficiency.interaction_share(THREE, "alone", quantity="q").iloc[0]
    mean, without = 7 / 36, (1 / 3, 0, 1 / 4)
    wide = 4.302653 * (2 / 3 * sum((x - mean) ** 2 for x in without)) ** 0.5
    assert row.hi == pytest.approx(20 + 100 * wide, rel=1e-6) and row.model == ""


@pytest.mark.parametrize(
    "both",
    [
        [5, 4, 3],  # 12 of 10: nothing is removed
        [4, 4, 2],  # 10 of 10
        [4, 4, 1],  # 9 of 10, but nothing without the third article
        [1, 4, 4],  # 9 of 10, but more is left without the first
    ],
)
def test_no_share_of_a_cut_that_is_not_sure(both):
    same = {"model": "joint", "quantity": "q", "protocol": "as published"}
    row = efficiency.interaction_share(THREE.assign(both=both), "alone", **same).iloc[0]
    assert row.value is None and row.lo is None and (row.n, row.of) == (3, "articles")
    assert row.unit == "no share, since the paths together do not surely lower the KL"
    assert {name: row[name] for name in same} == same


def test_a_sure_cut_may_be_small():
    """The paths remove half a per cent of each article, interaction alone a fifth of that."""
    small = pd.DataFrame(
        {
            name: [1 - x, 3 - 3 * x, 2 - 2 * x]
            for name, x in {"none": 0, "linear": 0.002, "interaction": 0.001, "both": 0.005}.items()
        }
    )
    row = efficiency.interaction_share(small, "alone", quantity="q").iloc[0]
    assert (row.value, row.lo, row.hi) == pytest.approx((20, 20, 20))


def test_one_article_has_a_share_without_an_interval():
    row = efficiency.interaction_share(THREE.iloc[1:2], "alone", quantity="q").iloc[0]
    assert (row.value, row.lo, row.n) == (50, None, 1)
    same = THREE.iloc[1:2].assign(both=4)  # the paths together remove nothing
    assert efficiency.interaction_share(same, "alone", quantity="q").iloc[0].value is None


def test_a_line_per_share_from_the_smallest_model_to_the_largest():
    curve = pd.DataFrame(
        [(0, 4e6, 0.1), (3, 2e6, 0.2), (0, 1e6, 0.4)], columns=["share", "parameters", "fvu"]
    ).assign(kl=[1, 2, 3])
    ax = comparisons.worth(pd.concat([curve, curve.assign(share=[1, 5, 10])]), "kl", "KL")
    drawn = {line.get_label(): line for line in ax.get_legend().get_lines()}
    assert list(drawn) == ["SAE alone", *(f"{s} % interaction" for s in (1, 3, 5, 10))]
    sae, third = ax.lines[0], ax.lines[2]
    assert list(sae.get_xdata()) == [1, 4] and list(sae.get_ydata()) == [3, 1]
    assert list(third.get_xdata()) == [2] and sae.get_color() == COLOURS["sae"]
    assert drawn["10 % interaction"].get_color() == COLOURS["interaction"]
    assert ax.get_xscale() == "log" and ax.get_ylabel() == "KL"
    plt.close("all")
