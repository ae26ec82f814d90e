"""The rows on which the released code measures, on activations so few that they can be counted by hand."""

from dataclasses import replace

import pytest
import torch

from companion import profiles, published
from featint.activations import Activations


def activations(where: list[int]) -> Activations:
    """Rows at these positions of the training split, whose token ids are their positions."""
    n, positions = len(where), torch.tensor(where)
    zeros = torch.zeros(n, dtype=torch.int64)
    return Activations(
        config=profiles.smoke().harvest,
        first_position="drop",
        shards=(torch.zeros(max(where) + 1, 2, dtype=torch.float16),),
        starts=torch.tensor([0]),
        where=positions,
        mean=torch.zeros(2),
        std=torch.ones(2),
        token=positions,
        article=zeros,
        topic=zeros,
        position=zeros,
        titles=["an article"],
        topics=["a topic"],
    )


@pytest.fixture
def short():
    """A profile with windows of 8 tokens, so that the first 79 windows end before position 632."""
    p = profiles.smoke()
    corpus = replace(p.harvest.corpus, seq_len=8)
    return replace(p, harvest=replace(p.harvest, corpus=corpus), seeds=(5, 6))


def test_the_joint_model_is_measured_on_the_first_79_windows(short):
    inside, outside = [0, 7, 8, 300, 630, 631], [632, 633, 5000]
    found = published.joint_tokens(activations(inside + outside), short)
    assert found.token.tolist() == inside, "all that there are, in order"


def test_and_on_a_thousand_of_their_tokens_drawn_by_the_first_seed(short, monkeypatch):
    assert published.JOINT_TOKENS == 1000
    monkeypatch.setattr(published, "JOINT_TOKENS", 3)
    found = published.joint_tokens(activations(list(range(10, 20))), short)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(5))
    assert found.token.tolist() == sorted(10 + i for i in order[:3].tolist())


def test_the_other_models_on_the_first_10240_tokens():
    assert published.first_tokens(activations([4, 2, 9])).token.tolist() == [4, 2, 9]
    many = published.first_tokens(activations(list(range(10_250))))
    assert many.token.tolist() == list(range(10_240))
