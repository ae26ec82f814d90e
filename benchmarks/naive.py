"""The joint model in the formulas of the released code, dense: what the project's own step is compared with."""

import torch
from torch import nn


class NaiveJoint(nn.Module):
    """TopK SAE and NFM: codes as dense vectors, both linear maps as dense products, pooling over a list of the active pairs."""

    def __init__(self, d_in: int, d_sae: int, k: int, d_factor: int):
        super().__init__()
        self.k = k
        self.encoder, self.decoder = nn.Linear(d_in, d_sae), nn.Linear(d_sae, d_in, bias=False)
        self.linear = nn.Linear(d_sae, d_in)
        self.embedding = nn.Embedding(d_sae, d_factor)
        self.mlp = nn.Sequential(
            nn.Dropout(0.15), nn.Linear(d_factor, d_factor), nn.ReLU(), nn.Linear(d_factor, d_in)
        )
        nn.init.normal_(self.embedding.weight, 0, 0.05)

    def forward(self, x):
        top = self.encoder(x).relu().topk(self.k)
        codes = x.new_zeros(len(x), self.encoder.out_features).scatter(1, top.indices, top.values)
        token, feature = codes.nonzero(as_tuple=True)
        weighted = self.embedding(feature) * codes[token, feature, None]
        zeros = x.new_zeros(len(x), weighted.shape[1])
        total, squares = (
            zeros.index_add(0, token, weighted),
            zeros.index_add(0, token, weighted.square()),
        )
        return self.decoder(codes) + self.linear(codes) + self.mlp((total.square() - squares) / 2)


def train(feed, d_sae: int, k: int, d_factor: int) -> None:
    """Its training loop: mean squared error, gradient clipping, Adam, as released."""
    model = NaiveJoint(feed.batches[0].shape[1], d_sae, k, d_factor)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, eps=1e-5)
    for x in feed:
        optimizer.zero_grad()
        loss = (model(x) - x).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()  # the released loop logs every step
