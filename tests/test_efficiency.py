"""The parameter count and the curves of equal size, against formulas and made-up sums."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from companion import ledger, profiles
from companion.chapters import efficiency
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.runs import Trained
from featint.sae import TopKSAE


@pytest.fixture
def p():
    return profiles.laptop()


def trained(config, d_in):
    """A model without memory in place of a trained one."""
    with torch.device("meta"):
        sae = TopKSAE(d_in, config.sae)
        model = (
            sae if config.nfm is None else JointSAE(sae, NFM(d_in, config.sae.d_sae, config.nfm))
        )
    return Trained(config, model, pd.DataFrame(), torch.zeros(1), torch.zeros(1), 0.0, {}, "")


def test_the_papers_count():
    counts = efficiency.counts(profiles.paper())
    d, f, k = 3200, 50_000, 300
    assert (
        counts.tolist() == [d * f + f, d * f, d * f + d, f * k, k * k + k + k * d + d]
        and counts.sum() == 496_106_700
    )
    table = efficiency.accounting(counts).set_index("part")
    assert (
        table.loc["all", "% of all"] == 100
        and table.loc["linear path + V + MLP (NFM)", "% of NFM"] == 100
    )
    assert table["% of all"].iloc[:5].sum() == pytest.approx(100)


def test_models_of_one_size_are_of_one_size(p):
    for (width, share), config in efficiency.grid(p).items():
        sizes = {name: t.numel() for name, t in trained(config, p.d_in).model.named_parameters()}
        total = sum(sizes.values())
        assert total == pytest.approx(efficiency.size(p, width), rel=2e-3)
        nfm = sum(n for name, n in sizes.items() if name.startswith("nfm."))
        assert 100 * nfm / total == pytest.approx(share, abs=0.1) and not any(
            "lin" in name for name in sizes
        )
        assert config.sae.k == p.sae.k and config.train.n_tokens == p.train.n_tokens // 4


def test_a_share_without_room_is_refused(p):
    with pytest.raises(ValueError, match="share = 0.01 % of .* leaves 0 factors"):
        efficiency.interacting(p, 100, 0.01)


def made_up(p, factor=1.0):
    """Models whose FVU is the root of their size, those with interaction multiplied by `factor`."""
    models = {name: trained(config, p.d_in) for name, config in efficiency.grid(p).items()}
    sse = {
        f"sse/{w}:{s}": m.n_parameters**-0.5 * (factor if s else 1) for (w, s), m in models.items()
    }
    errors = pd.DataFrame(
        [
            {"tokens": 10, "sst": 1.0} | sse,
            {"tokens": 30, "sst": 3.0} | {name: 3 * x for name, x in sse.items()},
        ]
    )
    kl = pd.DataFrame(
        [{"tokens": 10} | {name.replace("sse", "kl"): x for name, x in sse.items()}] * 2
    )
    return models, errors, kl


def test_worth_is_read_off_the_saes_curve(p):
    models, errors, kl = made_up(p, factor=2**0.5)
    rows = efficiency.curves(models, errors, kl)
    alone, inside = rows[rows.share == 0], rows[(rows.share > 0)]
    np.testing.assert_allclose(alone.as_sae, 1)
    np.testing.assert_allclose(inside.as_sae, 0.5, rtol=1e-6)  # as good as an SAE of half the size
    assert rows.fvu.iloc[0] == pytest.approx(rows.parameters.iloc[0] ** -0.5)
    better = efficiency.curves(*made_up(p, factor=0.1))
    assert better[better.share > 0].as_sae.isna().all()  # better than any SAE of the curve


def test_gains_and_results(p):
    p = replace(p, bootstrap=20)
    models, errors, kl = made_up(p, factor=0.9)
    table = efficiency.gains(p, errors, kl)
    assert table.loc["share_3/fvu_gain", "value"] == pytest.approx(10, abs=0.1) and table.loc[
        "share_3/kl_gain", "value"
    ] == pytest.approx(10, abs=0.1)
    index = ["as_published", "shapley", "as_published_cut", "shapley_cut"]
    nonlinear = pd.DataFrame(
        {
            "value": [20.0, 10.0, 50.0, 5.0],
            "lo": [10.0, 5.0, 40.0, -1.0],
            "hi": [30.0, 20.0, 60.0, 9.0],
            "n": 7,
        },
        index=index,
    )
    found = efficiency.values(efficiency.curves(models, errors, kl), table, nonlinear)
    for entry in ledger.entries():
        for field in ("as_published", "controlled"):
            if entry[field] and entry[field].startswith("efficiency:"):
                value = found[entry[field].removeprefix("efficiency:")]
                wanted = ledger.expected_unit(entry, field)
                assert wanted is None or value.value is None or value.unit.split(";")[0] == wanted
    assert found["paper_scale/integration_share/as_published"].value == pytest.approx(
        32.25, abs=0.01
    )
    assert found["paper_scale/nonlinear_parameters/as_published"].value == 1_053_500
    assert found["joint/nonlinear_kl_share/as_published"].value == 20
    undefined = found["joint/nonlinear_kl_shapley_share/controlled"]
    assert undefined.value is None and "do not surely lower" in undefined.unit
