"""Fixtures: an empty cache for every test, a tiny random language model and a tiny corpus. Shapes in signatures are checked while tests run."""

import json
import os
import random
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from jaxtyping import install_import_hook

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # for test_gpu; too late once anything has imported Triton
install_import_hook(["featint", "companion"], "shapes.checked")

from companion import places  # noqa: E402
from featint import store  # noqa: E402
from featint.config import CorpusConfig, HarvestConfig, LMConfig, NFMConfig, SAEConfig, TrainConfig  # noqa: E402

WORDS = "the of a in is was city river number theory star plant cell war king art music law trade ship iron gold code light".split()
TOPICS = ("Geography", "History", "Mathematics")


@pytest.fixture(autouse=True)
def cache(request, tmp_path, monkeypatch):
    """An empty cache folder but for the compiled kernels; tests of the real model and text share
    the project's own."""
    if "smoke" not in request.keywords and "copy" not in request.fixturenames:
        kernels = places.BUILD / "kernels"  # compiled once, not by every process that tests
        kernels.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "kernels").symlink_to(kernels)
        monkeypatch.setenv("FEATINT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def copy(tmp_path):
    """A copy of the project as `make smoke` leaves it. The environment, and what lies in the cache,
    are links; what is made anew stays in the copy."""
    folder, parts = tmp_path / "copy", [".*", "_build", "cache", "custom", "__pycache__"]
    shutil.copytree(places.PROJECT, folder, ignore=shutil.ignore_patterns(*parts))
    for part in ("executed", "atlas", "figures"):
        shutil.copytree(places.BUILD / part, folder / "_build" / part)
    (folder / ".venv").symlink_to(sys.prefix)
    for made in store.cache().glob("*/*"):
        link = folder / "cache" / made.relative_to(store.cache())
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(made)
    return folder


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory):
    """A folder with a random Llama of 4 blocks, d_model 32, in the form that transformers saves."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<|endoftext|>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tiny-llama")
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory):
    """A JSON file of 60 articles of 5 to 40 words on three topics."""
    words = random.Random(0)
    pages = {
        f"Article {i:02d}": {
            "topic": TOPICS[i % 3],
            "extract": " ".join(words.choices(WORDS, k=words.randint(5, 40))),
        }
        for i in range(60)
    }
    file = tmp_path_factory.mktemp("corpus") / "articles.json"
    file.write_text(json.dumps(pages), encoding="utf-8")
    return file


@pytest.fixture
def tiny_harvest(lm_folder, corpus_file):
    """The harvest config of the tiny model on the tiny corpus."""
    return HarvestConfig(
        lm=LMConfig(name=str(lm_folder)),
        corpus=CorpusConfig(
            name=str(corpus_file), seq_len=16, validation_fraction=0.1, test_fraction=0.2
        ),
        hook_point="blocks.1.hook_resid_post",
        dtype="float32",
    )


@pytest.fixture
def p(tiny_harvest):
    """A profile of seconds: the tiny model's activations, 64 features."""
    from companion import profiles
    from featint import harvest

    harvest.harvest(tiny_harvest)
    return replace(
        profiles.smoke(),
        d_in=32,
        harvest=tiny_harvest,
        sae=SAEConfig(d_sae=64, k=4),
        nfm=NFMConfig(d_factor=3),
        train=TrainConfig(n_tokens=64 * 60, batch_tokens=64, lr=1e-2, dead_after_tokens=1000),
    )
