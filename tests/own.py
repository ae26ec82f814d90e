"""A stranger's own: tiny language models with random weights, and a folder of text."""

import json
import random
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from companion import stimuli

SIZE = {"vocab_size": 2000, "initializer_range": 0.2, "tie_word_embeddings": True}
LLAMA = LlamaConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    **SIZE,
)
GPT2 = GPT2Config(
    n_embd=32, n_layer=3, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=0, **SIZE
)


def sentences() -> list[str]:
    """All that the designs hold, and each scored word in a sentence of its own."""
    texts = [text for name in stimuli.DESIGNS for text in stimuli.load(name).text]
    words = pd.read_csv(stimuli.WORDS).word
    return texts + [f"They said that it was {word} again." for word in words]


def texts(folder: Path, n: int = 60, each: int = 50) -> Path:
    """A folder with `n` files of text, each of some of the sentences, in a random order."""
    drawn, known = random.Random(0), sentences()
    folder.mkdir()
    for i in range(n):
        text = " ".join(drawn.choices(known, k=each))
        (folder / f"{i:02d}.txt").write_text(text, encoding="utf-8")
    return folder


def sae(folder: Path, hook_point: str, d_in: int = 32, d_sae: int = 128) -> Path:
    """A folder with a random JumpReLU SAE as SAELens saves one, of a model of that width."""
    torch.manual_seed(0)
    directions = torch.randn(d_sae, d_in) / d_in**0.5
    tensors = {"W_enc": directions.T.contiguous(), "b_enc": torch.zeros(d_sae)}
    tensors |= {"W_dec": directions / 2, "b_dec": torch.zeros(d_in)}
    tensors["threshold"] = torch.full((d_sae,), 0.5)
    cfg = {"architecture": "jumprelu", "d_in": d_in, "d_sae": d_sae}
    cfg["metadata"] = {"hook_name": hook_point, "sae_lens_version": "6.0.0"}
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder


def model(folder: Path, config: LlamaConfig | GPT2Config, knows_words: bool) -> Path:
    """A folder with a random model and a tokenizer of its own: pieces of bytes as GPT-2 has, most words
    in one, or characters alone."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = config.vocab_size if knows_words else len(alphabet) + 1
    how = {"special_tokens": ["</s>"], "initial_alphabet": alphabet, "show_progress": False}
    known = sentences() + [
        f" {word}" for word in pd.read_csv(stimuli.WORDS).word for _ in range(999)
    ]
    pieces.train_from_iterator(known, trainers.BpeTrainer(vocab_size=size, **how))
    PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    kinds = {LlamaConfig: LlamaForCausalLM, GPT2Config: GPT2LMHeadModel}
    kinds[type(config)](config).save_pretrained(folder)
    return folder
