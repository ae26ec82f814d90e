"""The secondary SAE: its statistics travel with it, it reads the inside of its base's interaction path, and wrong bases are refused."""

from dataclasses import replace

import pytest
import torch

from companion import variants
from featint import activations, runs
from featint.config import SAEConfig
from featint.sae import TopKSAE
from featint.secondary import SecondarySAE


def test_encode_and_decode_are_the_saes_on_z_scores():
    u, mean, std = torch.randn(7, 5) * 3 + 2, torch.randn(5), torch.tensor([0.0, 1, 2, 3, 4])
    sae = TopKSAE(5, SAEConfig(d_sae=20, k=2), torch.Generator().manual_seed(0))
    secondary = SecondarySAE(sae, mean, std)
    sigma = torch.tensor([1.0, 1, 2, 3, 4])  # a constant dimension is not divided by 0
    plain = sae((u - mean) / sigma)
    u_hat, codes = secondary(u)
    torch.testing.assert_close(u_hat, plain.x_hat * sigma + mean)
    torch.testing.assert_close(codes.acts, plain.codes.acts)
    torch.testing.assert_close(
        secondary.loss(u_hat, u), (plain.x_hat - (u - mean) / sigma).square().mean()
    )
    with torch.no_grad():  # direction: one more unit of a code
        more = codes.acts.clone()
        more[:, 0] += 1
        moved = secondary.decode(codes._replace(acts=more)) - secondary.decode(codes)
        torch.testing.assert_close(
            moved, torch.stack([secondary.direction(int(i)) for i in codes.indices[:, 0]])
        )


def test_only_constant_dimensions_are_left_undivided():
    sae = TopKSAE(3, SAEConfig(d_sae=4, k=1), torch.Generator().manual_seed(0))
    secondary = SecondarySAE(sae, torch.zeros(3), torch.tensor([0.0, 0.5, 2.0]))
    assert secondary.std.tolist() == [1, 0.5, 2]
    secondary.standardise(torch.tensor([[7.0, 0.0, 1.0], [7.0, 0.5, 5.0]]))
    assert secondary.mean.tolist() == [7, 0.25, 3] and secondary.std.tolist() == [1, 0.25, 2]


def test_a_secondary_model_is_trained_on_the_inside_of_its_base_and_keeps_its_statistics(p):
    config = variants.get("secondary", p)
    trained, base = runs.get(config), runs.get(config.base).model
    x = activations.load(p.harvest, "train").pieces(10_000)[0]
    u = base.nfm.pooled(base.encode(x)) @ base.nfm.W_hidden + base.nfm.b_hidden
    torch.testing.assert_close(trained.model.mean, u.mean(0))
    torch.testing.assert_close(trained.model.std, u.std(0, correction=0))
    assert trained.model.sae.W_dec.shape == (25 * 3, 3) and trained.model.sae.config.k == 2
    assert trained.history["validation_loss"].iloc[-1] < trained.history["validation_loss"].iloc[0]
    torch.testing.assert_close(runs.get(config).model(u).x_hat, trained.model(u).x_hat)
    held_out = activations.load(p.harvest, "validation").pieces(runs.VALIDATION_TOKENS)[0]
    u = base.nfm.hidden(base.encode(held_out))
    loss = ((trained.model(u).x_hat - u) / trained.model.std).square().mean().item()
    assert trained.history["validation_loss"].iloc[-1] == pytest.approx(loss, rel=1e-5)


def test_a_base_without_interactions_or_with_other_statistics_is_refused(p):
    config = variants.get("secondary", p)
    for name, change in {"an SAE": "sae", "no interaction path": "joint_no_interaction"}.items():
        with pytest.raises(
            ValueError, match="is the hidden layer of an interaction path, which the base"
        ):
            runs.fit(replace(config, base=variants.get(change, p))), name
    with pytest.raises(ValueError, match="dropped or kept as there"):
        runs.fit(replace(config, train=replace(config.train, first_position="keep")))
