"""The models against their formulas, written out densely, and against a net worked out by hand."""

import pytest
import torch

from featint.config import NFMConfig, SAEConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.sae import TopKSAE

D_IN, D_SAE, K = 6, 20, 5


def make(nfm: NFMConfig | None = None, bias: bool = False, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    model = TopKSAE(D_IN, SAEConfig(d_sae=D_SAE, k=K, decoder_bias=bias), generator)
    if nfm is not None:
        model = JointSAE(model, NFM(D_IN, D_SAE, nfm, generator))
    model = model.double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.rsplit(".")[-1].startswith(
                "b_"
            ):  # biases start at zero; give them values that a formula could get wrong
                p.normal_(generator=generator)
    return model.eval()


MODELS = {
    "sae": (None, False),
    "sae_bias": (None, True),
    "joint": (NFMConfig(d_factor=3), False),
    "joint_bias": (NFMConfig(d_factor=3), True),
    "joint_masked": (NFMConfig(d_factor=3, top_n=2), False),
    "joint_no_interaction": (NFMConfig(d_factor=3, interaction=False), False),
    "sae_interaction": (NFMConfig(d_factor=3, linear=False), True),
    "polynomial": (NFMConfig(d_factor=3, linear=False, form="polynomial"), True),
    "mlp": (NFMConfig(d_factor=3, form="mlp", normalise=True), False),
    "gelu": (NFMConfig(d_factor=3, form="gelu"), False),
    "products": (NFMConfig(d_factor=3, linear=False, form="products"), True),
}


@pytest.fixture(params=MODELS)
def model(request):
    return make(*MODELS[request.param])


@pytest.fixture
def x():
    return torch.randn(50, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_topk_sae_by_hand():
    """Two inputs, three features; weights, pre-activations and sums worked out on paper."""
    sae = TopKSAE(2, SAEConfig(d_sae=3, k=1))
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]))
        sae.b_enc.copy_(torch.tensor([0.0, 0.0, -2.0]))
        sae.W_dec.copy_(torch.tensor([[10.0, 0.0], [0.0, 10.0], [5.0, 5.0]]))
    assert sae.b_dec is None
    # [3, 1] -> pre-activations [3, 1, 2]: feature 0; [2, 4] -> [2, 4, 4 - 0]: b_enc makes it [2, 4, 4]; [-1, -1] -> all negative
    x_hat, codes = sae(torch.tensor([[3.0, 1.0], [1.0, 4.0], [-1.0, -1.0]]))
    assert codes.dense(3).tolist() == [[3, 0, 0], [0, 4, 0], [0, 0, 0]]
    assert x_hat.tolist() == [[30, 0], [0, 40], [0, 0]]
    with_bias = TopKSAE(2, SAEConfig(d_sae=3, k=1, decoder_bias=True))
    assert with_bias.b_dec.tolist() == [0, 0]
    with torch.no_grad():
        with_bias.W_dec.copy_(sae.W_dec)
        with_bias.b_dec.copy_(torch.tensor([1.0, -2.0]))
    assert with_bias.decode(codes).tolist() == [[31, -2], [1, 38], [1, -2]]


def test_encode_is_relu_then_topk_by_sorting(model, x):
    sae = getattr(model, "sae", model)
    pre = torch.relu(x @ sae.W_enc + sae.b_enc)
    threshold = pre.sort(1, descending=True).values[:, K - 1 : K]
    assert torch.allclose(
        model.encode(x).dense(D_SAE), torch.where(pre >= threshold, pre, 0), atol=1e-12
    )


def test_forward_is_decode_of_encode_and_the_sum_of_its_parts(model, x):
    x_hat, codes = model(x)
    assert torch.equal(x_hat, model.decode(codes))
    assert torch.allclose(x_hat, sum(model.parts(codes).values()), atol=1e-12)


def test_joint_parts_match_the_papers_formulas(x):
    for top_n in (None, 2):
        model = make(NFMConfig(d_factor=3, top_n=top_n))
        codes = model.encode(x)
        c = codes.dense(D_SAE)
        if top_n:
            c = torch.where(c >= c.sort(1, descending=True).values[:, top_n - 1 : top_n], c, 0)
        nfm, parts = model.nfm, model.parts(codes)
        pairs = torch.zeros(len(x), 3, dtype=torch.float64)
        for i in range(D_SAE):
            for j in range(i + 1, D_SAE):
                pairs += c[:, i : i + 1] * c[:, j : j + 1] * (nfm.V[i] * nfm.V[j])
        hidden = pairs @ nfm.W_hidden + nfm.b_hidden
        assert torch.allclose(parts["sae_out"], codes.dense(D_SAE) @ model.sae.W_dec, atol=1e-12)
        assert torch.allclose(parts["linear_out"], c @ nfm.W_lin + nfm.b_lin, atol=1e-12)
        assert torch.allclose(nfm.hidden(codes), hidden, atol=1e-12)
        assert torch.allclose(
            parts["interaction_out"], hidden.clamp(min=0) @ nfm.W_out + nfm.b_out, atol=1e-12
        )


def test_the_rivals_of_the_nfm_by_their_formulas(x):
    for form in ("polynomial", "mlp"):
        model = make(NFMConfig(d_factor=3, linear=False, form=form), bias=True)
        codes, nfm = model.encode(x), model.nfm
        s = codes.dense(D_SAE) @ nfm.V
        if form == "polynomial":
            wanted = s**2 @ nfm.W_out[:3] + s**3 @ nfm.W_out[3:] + nfm.b_out
        else:
            wanted = (s @ nfm.W_hidden + nfm.b_hidden).clamp(min=0) @ nfm.W_out + nfm.b_out
        assert torch.allclose(model.parts(codes)["interaction_out"], wanted, atol=1e-12)


def test_a_form_of_the_nfm_differs_in_its_activation_or_has_no_mlp(x):
    paths = {
        form: make(NFMConfig(d_factor=3, form=form)).nfm for form in ("nfm", "gelu", "products")
    }
    codes = make().encode(x)
    hidden, pairs = paths["nfm"].hidden(codes), paths["nfm"].pooled(codes)
    assert torch.equal(paths["gelu"].hidden(codes), hidden)
    gelu = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    nfm, straight = paths["gelu"], paths["products"]
    assert torch.allclose(nfm.interaction_out(codes), gelu @ nfm.W_out + nfm.b_out, atol=1e-12)
    assert not hasattr(straight, "W_hidden") and torch.equal(straight.V, paths["nfm"].V)
    wanted = pairs @ straight.W_out + straight.b_out
    assert torch.allclose(straight.interaction_out(codes), wanted, atol=1e-12)


def test_normalised_codes_make_the_interactions_blind_to_a_tokens_norm(x):
    nfm = make(NFMConfig(d_factor=3, normalise=True)).nfm
    codes = make().encode(x)
    for factor in (7, 1e-3):
        other = codes._replace(acts=factor * codes.acts)
        assert torch.allclose(nfm.interaction_out(codes), nfm.interaction_out(other), atol=1e-12)
    unit = codes._replace(acts=codes.acts / codes.acts.square().mean(1, keepdim=True).sqrt())
    assert torch.allclose(
        nfm.interaction_out(codes),
        make(NFMConfig(d_factor=3)).nfm.interaction_out(unit),
        atol=1e-12,
    )


def test_one_active_feature_has_nothing_to_interact_with(x):
    generator = torch.Generator().manual_seed(0)
    nfm = NFM(D_IN, D_SAE, NFMConfig(d_factor=3), generator).double().eval()
    codes = TopKSAE(D_IN, SAEConfig(d_sae=D_SAE, k=1), generator).double().encode(x)
    assert torch.allclose(nfm.hidden(codes), nfm.b_hidden.expand(len(x), -1), atol=1e-12)


def test_permuting_features_permutes_codes_and_leaves_the_reconstruction(model, x):
    order = torch.randperm(D_SAE, generator=torch.Generator().manual_seed(2))
    x_hat, codes = model(x)
    before = codes.dense(D_SAE)
    with torch.no_grad():
        for name, p in model.named_parameters():
            short = name.rsplit(".")[-1]
            if short == "W_enc":
                p.copy_(p[:, order].clone())
            elif short in ("b_enc", "W_dec", "W_lin", "V"):
                p.copy_(p[order].clone())
    after, codes = model(x)
    assert torch.allclose(codes.dense(D_SAE), before[:, order], atol=1e-12)
    assert torch.allclose(after, x_hat, atol=1e-12)


def test_decoder_and_linear_path_get_the_same_gradient_without_a_mask(x):
    model = make(NFMConfig(d_factor=3)).train()
    (model(x).x_hat - x).square().mean().backward()
    assert torch.equal(model.sae.W_dec.grad, model.nfm.W_lin.grad)
    masked = make(NFMConfig(d_factor=3, top_n=2)).train()
    (masked(x).x_hat - x).square().mean().backward()
    assert not torch.allclose(masked.sae.W_dec.grad, masked.nfm.W_lin.grad)


def test_the_encoder_starts_as_the_decoders_transpose_but_is_not_tied():
    sae = make()
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert sae.W_enc.data_ptr() != sae.W_dec.data_ptr()


def test_same_seed_same_model_and_another_seed_another():
    same, other = make(NFMConfig(d_factor=3)), make(NFMConfig(d_factor=3), seed=1)
    for (name, p), q, r in zip(
        make(NFMConfig(d_factor=3)).named_parameters(),
        same.parameters(),
        other.parameters(),
        strict=True,
    ):
        assert torch.equal(p, q), name
        assert r.ndim == 1 or not torch.equal(p, r), name


def test_dropout_only_in_training(x):
    model = make(NFMConfig(d_factor=3, dropout=0.5))
    codes = model.encode(x)
    assert torch.equal(model.nfm.hidden(codes), model.nfm.hidden(codes))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model.nfm.hidden(codes), model.nfm.hidden(codes))


def test_initial_values_are_the_released_codes():
    nfm = NFM(50, 4000, NFMConfig(d_factor=40), torch.Generator().manual_seed(0))
    for name, std in {"W_lin": 0.01, "V": 0.05, "W_hidden": 0.01, "W_out": 0.01}.items():
        drawn = getattr(nfm, name)
        off = 4 / drawn.numel() ** 0.5  # four standard errors of the mean; more of the deviation's
        assert drawn.mean().item() == pytest.approx(0, abs=off * std)
        assert drawn.std().item() == pytest.approx(std, rel=off)
    assert not any(bias.any() for bias in (nfm.b_lin, nfm.b_hidden, nfm.b_out))
    sae = TopKSAE(50, SAEConfig(d_sae=4000, k=8), torch.Generator().manual_seed(0))
    assert sae.W_dec.abs().max().item() == pytest.approx(4000**-0.5, rel=0.01)
    assert sae.W_dec.square().sum(1).mean().item() == pytest.approx(
        50 / (3 * 4000), rel=0.02
    )  # d_in / (3 d_sae): variance of a uniform
