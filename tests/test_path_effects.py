"""What each path does to x_hat: by hand, and against brute force on small models."""

import numpy as np
import pytest
import torch

from featint import path_effects
from featint.config import NFMConfig, SAEConfig
from featint.joint import JointSAE
from featint.kernels.sparse import Codes
from featint.nfm import NFM
from featint.sae import TopKSAE


def model(kind="joint", d_in=6, d_sae=40, k=4, d_factor=3, **nfm):
    g = torch.Generator().manual_seed(0)
    sae = TopKSAE(d_in, SAEConfig(d_sae=d_sae, k=k), g)
    if kind == "sae":
        return sae.double().requires_grad_(False)
    factors = NFM(d_in, d_sae, NFMConfig(d_factor=d_factor, dropout=0.0, **nfm), g)
    with torch.no_grad():  # a path that matters, and a ReLU that bends
        for p in factors.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=g))
    return JointSAE(sae, factors).double().requires_grad_(False)


def by_hand(W_dec, W_lin, V, W_out):
    """A joint model of these weights, whose MLP multiplies what is above 0 by `W_out`."""
    m = model(d_in=len(W_dec[0]), d_sae=len(W_dec), k=1, d_factor=1)
    weights = {"W_lin": W_lin, "V": V, "W_out": W_out, "W_hidden": [[1]]}
    for name, value in weights.items():
        getattr(m.nfm, name).copy_(torch.tensor(value))
    for bias in (m.nfm.b_lin, m.nfm.b_hidden, m.nfm.b_out):
        bias.zero_()
    m.sae.W_dec.copy_(torch.tensor(W_dec))
    return m


def tokens(n, d_in=6):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, d_in, generator=g, dtype=torch.float64)


def test_effects_of_a_feature_by_hand():
    """Feature 0 writes (2, 0) and (1, 1), in all (3, 1): parts (2, 0) . (3, 1) = 6 of 10 and 4 of
    10. On its only token x = (4, 0) the error is (1, -1), squared 2, and 16 without it: 14 more.
    The four tokens lie (16 + 4 + 4 + 16) / 4 = 10 from their mean, 0: 1.4. Feature 1 writes (0, 1)
    to (0, 2): 4 instead of 1, so 0.3. Feature 2 never fires."""
    m = by_hand([[2.0, 0], [0, 1], [1, 0]], [[1.0, 1], [0, 0], [0, 1]], [[0], [0], [0]], [[0, 0]])
    x = torch.tensor([[4.0, 0], [0, 2], [0, -2], [-4, 0]], dtype=torch.float64)
    codes = Codes(torch.tensor([[1.0], [1], [0], [0]]).double(), torch.tensor([[0], [1], [0], [0]]))
    found = path_effects.by_feature(m, [x], [codes])
    assert found.fired.tolist() == [1, 1, 0]
    assert found.ablation[:2].tolist() == pytest.approx([1.4, 0.3])
    assert found.decoder[:2].tolist() == pytest.approx([0.6, 1])
    assert found.linear[:2].tolist() == pytest.approx([0.4, 0], abs=1e-12)
    assert found.interaction[:2].tolist() == pytest.approx([0, 0], abs=1e-12)
    assert found.drop(columns="fired").loc[2].isna().all()


@pytest.mark.parametrize("kind", ["joint", "sae"])
def test_effects_of_a_feature_are_those_of_switching_it_off(monkeypatch, kind):
    """Each in turn: what disappears by path, its covariances, and the squared error that is added."""
    monkeypatch.setattr(path_effects, "ROWS", 17)
    m, x = model(kind), tokens(60)
    codes = m.encode(x)
    pieces = zip(codes.acts.split(25), codes.indices.split(25), strict=True)
    found = path_effects.by_feature(m, x.split(25), [Codes(a, i) for a, i in pieces])
    assert found.index.name == "feature"
    shares = ["decoder", "linear", "interaction"] if kind == "joint" else ["decoder"]
    assert found.columns.tolist() == ["fired", "ablation", *shares]
    spread = float(((x - x.mean(0)) ** 2).sum() / len(x))
    written = m.parts(codes)
    fired = 0
    for feature in range(40):
        without = Codes(codes.acts * (codes.indices != feature), codes.indices)
        kept = m.parts(without)
        lost = {part: (written[part] - kept[part]).numpy() for part in written}
        on = int(((codes.indices == feature) & (codes.acts > 0)).sum())
        assert found.fired[feature] == on
        if not on:
            assert found.drop(columns="fired").loc[feature].isna().all()
            continue
        fired += 1
        output = sum(lost.values())
        centred = output - output.mean(0)
        for part, disappeared in lost.items():
            path = "decoder" if part == "sae_out" else part.removesuffix("_out")
            share = (disappeared * centred).sum() / (centred**2).sum()
            assert found.loc[feature, path] == pytest.approx(share, abs=1e-9)
        added = ((x - m.decode(without)) ** 2).sum() - ((x - m.decode(codes)) ** 2).sum()
        assert found.ablation[feature] == pytest.approx(float(added) / on / spread, abs=1e-9)
    assert fired > 20


def test_effects_of_groups_by_hand():
    """x is 4 and 0. On the first token three features write: 0, the low one, 2 by the decoder; 1 and
    2 together 1 by the linear path; each of the three pairs 1/4. Two pairs cross the groups: low has
    half of them, 1/4, and high 1/2. Deviations from the mean are half of all this, x's is 2, and
    x_hat's (2 + 1 + 3/4) / 2 = 1.875. A share is (2 * 2 * part - 1.875 * part) / 2^2."""
    decoder, linear = [[2.0], [0], [0]], [[0.0], [0.5], [0.5]]
    m = by_hand(decoder, linear, V=[[1], [1], [1]], W_out=[[0.25]])
    x = torch.tensor([[4.0], [0]], dtype=torch.float64)
    codes = Codes(torch.tensor([[1.0, 1, 1], [0, 0, 0]]).double(), torch.arange(3).expand(2, 3))
    low = torch.tensor([True, False, False])
    found = path_effects.by_group(m, [x], [codes], low).shapley()
    half = {"decoder": {"low": 1, "high": 0}, "linear": {"low": 0, "high": 0.5}}
    half["interaction"] = {"low": 0.125, "high": 0.25}
    assert set(found.index) == {(path, group) for path in half for group in ("low", "high")}
    for (path, group), share in found.items():
        assert share == pytest.approx((4 - 1.875) * half[path][group] / 4, abs=1e-12)
    assert found.sum() == pytest.approx(1 - 0.125**2 / 4)  # 1 - FVU


def test_shares_of_groups_have_no_scale():
    """x is 0.2, then 0, and one part is half of it: half explained, less a quarter of the variance
    that is left over, 1 - (1 - 1/2)^2. In another block x does not vary."""
    moments = path_effects.GroupMoments(
        [("decoder", "low")],
        torch.tensor([2, 3]),
        torch.tensor([[[0.2], [0.1]], [[0.3], [0.3]]]).double(),
        torch.tensor([[[0.04, 0.02], [0.02, 0.01]], [[0.03, 0.03], [0.03, 0.03]]]).double(),
    )
    found = moments.shapley(np.array([True, False]))
    assert found.index.names == ["path", "group"]
    assert found.to_dict() == pytest.approx({("decoder", "low"): 0.75})
    assert moments.shapley(np.array([True, True])).iloc[0] == pytest.approx(0.6)


def test_effects_of_groups_add_up_to_what_the_model_explains():
    m, x = model(), tokens(400)
    pieces, low = x.split([100, 250, 50]), torch.arange(40) % 3 == 0
    codes = [m.encode(part) for part in pieces]
    moments = path_effects.by_group(m, pieces, codes, low)

    def explained(x):
        error = x - m(x).x_hat
        return 1 - float((error - error.mean(0)).square().sum() / (x - x.mean(0)).square().sum())

    assert moments.shapley().sum() == pytest.approx(explained(x), abs=1e-10)
    rest = moments.shapley(np.array([True, False, True]))  # as if there were no second block
    assert rest.sum() == pytest.approx(explained(torch.cat([pieces[0], pieces[2]])), abs=1e-10)
    # all features in one group: the other one has nothing
    alone = path_effects.by_group(m, pieces, codes, torch.ones(40, dtype=torch.bool)).shapley()
    assert alone.xs("high", level="group").abs().max() < 1e-12
    assert alone["decoder", "low"] == pytest.approx(moments.shapley()["decoder"].sum(), abs=1e-10)


def test_effects_refuse():
    with pytest.raises(ValueError, match="top_n = 2"):
        path_effects.by_feature(model(top_n=2), [tokens(5)], [])
    with pytest.raises(ValueError, match="interaction = False"):
        path_effects.parted(model(interaction=False))
    m, x = model(), torch.ones(5, 6, dtype=torch.float64)
    moments = path_effects.by_group(m, [x], [m.encode(x)], torch.ones(40, dtype=torch.bool))
    with pytest.raises(ValueError, match="x does not vary"):
        moments.shapley()
