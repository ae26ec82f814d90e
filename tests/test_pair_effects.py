"""Effects of pairs by hand, on an NFM whose weights can be multiplied in the head."""

import numpy as np
import pytest
import torch

from featint import pair_effects
from featint.config import NFMConfig
from featint.kernels.sparse import Codes
from featint.nfm import NFM


def an_nfm(V=(1.0, 2.0, 1.0), bias=0.0, d_in=2):
    """One factor, one hidden unit: the output is relu(pooled + bias) (3, 4) + (1, 1), so that one
    unit of the hidden layer is 5 long."""
    nfm = NFM(d_in, len(V), NFMConfig(d_factor=1, dropout=0.0))
    with torch.no_grad():
        for p in nfm.parameters():
            p.fill_(1.0)
        nfm.V.copy_(torch.tensor(V)[:, None])
        nfm.b_hidden.fill_(bias)
        nfm.W_out.copy_(torch.tensor([[3.0, 4.0]]))
    return nfm


def test_second_differences_alone():
    levels, pairs = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([[0, 1], [0, 2], [1, 2]])
    # pooled: 2 x 0.5 x 1 x 2 = 2; 2 x 1 x 1 x 1 = 2; 0.5 x 1 x 2 x 1 = 1; each 5 long
    assert pair_effects.alone(an_nfm(), pairs, levels).tolist() == pytest.approx([10, 10, 5])
    # the unit opens at 1.5: 0.5, 0.5 and nothing are left
    closed = pair_effects.alone(an_nfm(bias=-1.5), pairs, levels)
    assert closed.tolist() == pytest.approx([2.5, 2.5, 0])
    # it is open with nothing active; what it writes then is no effect of a pair
    opened = pair_effects.alone(an_nfm(bias=1.0), pairs, levels)
    assert opened.tolist() == pytest.approx([10, 10, 5])


def test_second_differences_are_those_of_the_whole_nfm(monkeypatch):
    """Against f(i and j) - f(i) - f(j) + f(neither), f the sum of both paths; in small chunks."""
    monkeypatch.setattr(pair_effects, "CHUNK", 4)
    generator = torch.Generator().manual_seed(3)
    nfm, levels = NFM(5, 6, NFMConfig(d_factor=4, dropout=0.0)), torch.arange(1.0, 7)
    with torch.no_grad():
        for p in nfm.parameters():
            p.normal_(generator=generator)
    every = torch.combinations(torch.arange(6))

    def f(*on):
        acts = torch.zeros(1, 6)
        acts[0, list(on)] = levels[list(on)]
        return sum(nfm.parts(Codes(acts, torch.arange(6)[None])).values())[0]

    expected = [(f(i, j) - f(i) - f(j) + f()).norm().item() for i, j in every.tolist()]
    found = pair_effects.alone(nfm, every, levels).tolist()
    assert found == pytest.approx(expected, abs=1e-5)


def test_effects_by_weights():
    levels, pairs = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([[0, 1], [1, 2]])
    nfm = an_nfm(bias=-1.5)
    # pooled 2 on the first token and 0.5 on the others: the unit is open on one in four
    codes = Codes(
        torch.tensor([[1.0, 1], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]), torch.tensor([[0, 1]] * 4)
    )
    found = pair_effects.by_weights(nfm, pairs, levels, codes)
    assert found.tolist() == pytest.approx([2 * 5 / 4, 1 * 5 / 4])
    # at the threshold of 0.5 itself the unit is still closed
    found = pair_effects.by_weights(an_nfm(bias=-0.5), pairs, levels, codes)
    assert found.tolist() == pytest.approx([2 * 5 / 4, 1 * 5 / 4])
    # each unit by its own share: one writes (3, 4) and opens on one in four, the other (1, 0) always
    two = NFM(2, 3, NFMConfig(d_factor=2, dropout=0.0))
    with torch.no_grad():
        two.V.copy_(torch.tensor([[1.0, 1], [2, 2], [1, 1]]))
        two.W_hidden.copy_(torch.eye(2))
        two.b_hidden.copy_(torch.tensor([-1.5, 1]))
        two.W_out.copy_(torch.tensor([[3.0, 4], [1, 0]]))
    found = pair_effects.by_weights(two, pairs, levels, codes)
    assert found.tolist() == pytest.approx([2 * (1.75**2 + 1) ** 0.5, (1.75**2 + 1) ** 0.5])


def test_effects_in_company():
    """All three together pool 2 + 2 + 1 = 5."""
    codes = Codes(torch.tensor([[1.0, 2.0, 0.5], [1.0, 2.0, 0.0]]), torch.tensor([[2, 0, 1]] * 2))
    rows, pairs = torch.tensor([0, 0, 1]), torch.tensor([[0, 1], [1, 2], [0, 1]])
    # open all the time: 5 - (without 0: 1) - (without 1: 2) + 0 = 2 for (0, 1);
    # 5 - (without 1: 2) - (without 2: 2) + 0 = 1 for (1, 2); on the second token 1 is not there
    found = pair_effects.in_company(an_nfm(), codes, rows, pairs)
    assert found.tolist() == pytest.approx([10, 5, 0])
    # opens at 2.5: the third feature lifts the pair over the threshold, 2.5 - 0 - 0 + 0
    found = pair_effects.in_company(an_nfm(bias=-2.5), codes, rows[:1], pairs[:1])
    assert found.tolist() == pytest.approx([12.5])
    # opens at 1.5: 3.5 - (without 0: 0) - (without 1: 0.5) + 0
    found = pair_effects.in_company(an_nfm(bias=-1.5), codes, rows[:1], pairs[:1])
    assert found.tolist() == pytest.approx([15])


def meeting():
    """Features 1, 3 and 4 on six tokens; 2 is not asked, and a code of 0 is not active."""
    acts = torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1], [2, 1, 0], [1, 1, 1]])
    indices = torch.tensor([[1, 3, 2], [3, 1, 4], [4, 3, 1], [1, 2, 3], [4, 1, 3], [2, 3, 1]])
    return Codes(acts, indices), torch.tensor([1, 3, 4])


def test_who_meets_whom_and_where():
    codes, features = meeting()
    active, pairs, n = pair_effects.meetings(codes, features, least=2)
    # 1 and 3 on tokens 0, 1, 2, 3, 5; 1 and 4 on 2 and 4; 3 and 4 on 2 alone
    assert pairs.tolist() == [[0, 1], [0, 2]] and n.tolist() == [5, 2]
    assert pair_effects.meetings(codes, features, least=1)[1].tolist() == [[0, 1], [0, 2], [1, 2]]
    assert active.toarray()[:, 2].tolist() == [0, 0, 1, 0, 1, 0]
    silent = pair_effects.meetings(codes, torch.tensor([1, 9]), least=1)  # 9 never fires
    assert silent[0].shape == (6, 2) and len(silent[1]) == len(silent[2]) == 0
    where = pair_effects.tokens_of(active, pairs, most=3)
    assert [w.tolist() for w in where] == [[0, 2, 5], [2, 4]]  # the first, the middle, the last


def test_partners_by_hand():
    codes, features = meeting()
    nfm, levels = an_nfm(V=(0.0, 1.0, 0.0, 2.0, 1.5)), torch.ones(5)
    sizes = {"least": 1, "candidates": 2, "tokens": 8, "most": 2}
    found = pair_effects.partners(nfm, codes, features, levels, **sizes)
    # 1 and 3: 1 x 1 x 1 x 2 = 2 wherever they meet; 3 and 4: 1 x 1 x 2 x 1.5 = 3 on token 2;
    # 1 and 4: 1.5 on token 2, twice that on token 4, 2.25 on average
    ends = found[["feature", "partner", "n"]].to_numpy().tolist()
    assert ends == [[1, 4, 2], [1, 3, 5], [3, 4, 1], [3, 1, 5], [4, 3, 1], [4, 1, 2]]
    assert found["effect"].tolist() == pytest.approx([11.25, 10, 15, 10, 15, 11.25])
    one = pair_effects.partners(nfm, codes, features, levels, **sizes | {"most": 1})
    assert one["partner"].tolist() == [4, 4, 3]
    # by weights 1.5 for 1 and 4 comes last, so that with one candidate each they are not asked
    few = pair_effects.partners(nfm, codes, features, levels, **sizes | {"candidates": 1})
    assert few[["feature", "partner"]].to_numpy().tolist() == [[1, 3], [3, 4], [3, 1], [4, 3]]
    for nobody in (torch.tensor([1, 9]), torch.tensor([9, 10])):
        none = pair_effects.partners(nfm, codes, nobody, torch.ones(11), **sizes)
        assert none.empty and none.columns.tolist() == found.columns.tolist()
    assert pair_effects.partners(nfm, codes, features, levels, **sizes | {"least": 6}).empty


def test_the_weights_are_asked_with_tokens_spread_over_all(monkeypatch):
    """Every token where there are few; with room for two of six, every third."""
    codes, features = meeting()
    nfm, seen, ask = an_nfm(V=(1.0,) * 5), [], pair_effects.by_weights
    monkeypatch.setattr(
        pair_effects, "by_weights", lambda *given: seen.append(given[3]) or ask(*given)
    )
    for chunk, rows in {7: [0, 1, 2, 3, 4, 5], 2: [0, 3]}.items():
        monkeypatch.setattr(pair_effects, "CHUNK", chunk)
        pair_effects.partners(nfm, codes, features, torch.ones(5), 1, 2, 8, 2)
        assert seen[-1].acts.tolist() == codes.acts[rows].tolist()
        assert seen[-1].indices.tolist() == codes.indices[rows].tolist()


def test_strongest_pairs_of_each_feature():
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2], [2, 3]])
    found = pair_effects.strongest(pairs, np.array([1.0, 5.0, 3.0, 2.0]), 5, 2)
    assert [s.tolist() for s in found] == [[1, 0], [2, 0], [1, 2], [3], []]


def test_agreement_by_hand():
    known = torch.tensor([True, True, True, False, False])
    assert pair_effects.agreement(torch.tensor([5.0, 4, 3, 2, 1]), known) == (1.0, 1.0)
    scores = torch.tensor([5.0, 4, 2, 3, 1])  # the third of the list is false
    area, recall = pair_effects.agreement(scores, known)
    assert area == pytest.approx((1 + 1 + 3 / 4) / 3) and recall == pytest.approx(2 / 3)
    assert pair_effects.agreement(torch.ones(5), known)[1] == 0  # no order at all finds nothing
    assert pair_effects.agreement(scores, known, false_share=0.25)[1] == 1
