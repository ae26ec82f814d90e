"""What a parameter in the interaction path is worth: models of one size, and the path's share."""

import math

import pandas as pd

from companion import estimates, variants
from companion.profiles import Profile, altered
from featint.config import ModelConfig, NFMConfig


def of_size(p: Profile, width: int, share: float, seed: int | None = None) -> ModelConfig:
    """A model with as many parameters as an SAE of `width` features (with decoder bias), `share`
    per cent of them in factors and MLP; without a linear path, trained on a quarter of the tokens.

    Raises ValueError if that leaves no room for a single factor, or for k features.
    """
    plain, d = variants.get("sae_short", p, seed), p.d_in
    if share == 0:
        return altered(plain, {"sae": {"d_sae": width}})
    total = width * (2 * d + 1) + d
    d_sae = round(((1 - share / 100) * total - d) / (2 * d + 1))
    # the path has m^2 + m (d_sae + 1 + d) + d parameters with m factors: the positive root
    half, rest = (d_sae + 1 + d) / 2, share / 100 * total - d
    m = max(0, round(math.sqrt(half**2 + rest) - half))
    if m < 1 or d_sae < p.sae.k:
        leaves = f"leaves {m} factors and {d_sae} features: at least 1 and k = {p.sae.k}"
        raise ValueError(f"share = {share!r} % of {total:,} parameters {leaves}")
    nfm = NFMConfig(d_factor=m, linear=False, dropout=p.nfm.dropout)
    return altered(plain, {"sae": {"d_sae": d_sae}, "nfm": nfm})


def interaction_share(losses: pd.DataFrame, kind: str, **same) -> pd.DataFrame:
    """The interaction path's share of the loss that both paths together remove, per cent.

    `losses`: sums, rows as in `estimates.of_totals`, with the columns none, linear, interaction,
    both, by the paths that are added to the SAE's. `kind` as in `estimates.path_shares`. There is
    no share (None, with the reason as its unit) unless the paths together surely lower the loss.
    """
    removed = estimates.gains(losses, [("both", "none")]).iloc[0]
    if removed.value <= 0 or (removed.lo is not None and removed.lo <= 0):
        nothing = {"value": None, "n": removed.n, "of": removed.of}
        nothing["unit"] = "no share, since the paths together do not surely lower the KL"
        return estimates.tidy([nothing], **same)

    def statistic(total: pd.DataFrame) -> dict:
        return {"": 100 * estimates.path_shares(**total)["interaction", kind]}

    return estimates.of_totals(losses, statistic, unit="%", **same)
