"""Reading and splicing, on a tiny random Llama; against transformers alone where that can say what is right."""

import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from featint import activations, harvest, lm, store
from featint.config import HarvestConfig, LMConfig
from featint.store import StoreError

SITES = [
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_resid_post",
    "blocks.1.hook_mlp_out",
    "blocks.0.hook_resid_pre",
    "blocks.3.hook_resid_post",
]


@pytest.fixture(scope="module")
def model(lm_folder):
    return lm.load(LMConfig(name=str(lm_folder)))


@pytest.fixture(scope="module")
def tokens():
    tokens = torch.randint(2, 20, (3, 12), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = tokens[1, 5] = 0  # the separator
    return tokens


def splice(model, tokens, hook_point, edit, first_position="drop"):
    """Logits with the activation x at the hook point replaced by `edit(x)`."""
    return lm.resume(model, lm.read(model, tokens, hook_point), edit, first_position)


@contextmanager
def replaced(module, edit):
    """transformers' own way: a forward hook on a module of a plain model."""
    handle = module.register_forward_hook(lambda m, args, out: edit(out))
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def plain(lm_folder):
    return (
        AutoModelForCausalLM.from_pretrained(lm_folder, attn_implementation="eager")
        .eval()
        .requires_grad_(False)
    )


def n_hooks(model):
    return sum(len(hook.fwd_hooks) for hook in model.bridge.hook_dict.values())


def test_load_knows_its_sizes(model):
    assert (model.d_model, model.n_layers, model.separator) == (32, 4, 0)


def test_clean_logits_are_those_of_transformers(model, plain, tokens):
    logits = lm.resume(model, lm.read(model, tokens, "blocks.1.hook_resid_post"))
    torch.testing.assert_close(logits, plain(tokens).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hook_point", SITES)
def test_identity_leaves_logits_bit_equal(model, tokens, hook_point):
    clean = model.bridge(tokens)
    for first_position in ("drop", "keep"):
        assert torch.equal(splice(model, tokens, hook_point, lambda x: x, first_position), clean)


def test_the_site_is_the_output_of_its_block(model, plain, tokens):
    hidden = plain(tokens, output_hidden_states=True).hidden_states
    torch.testing.assert_close(
        lm.read(model, tokens, "blocks.1.hook_resid_post").x, hidden[2], rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        lm.read(model, tokens, "blocks.1.hook_resid_pre").x, hidden[1], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "hook_point, module_of",
    [
        ("blocks.1.hook_resid_post", lambda m: m.model.layers[1]),
        ("blocks.2.hook_resid_pre", lambda m: m.model.layers[1]),
        ("blocks.1.hook_mlp_out", lambda m: m.model.layers[1].mlp),
        ("blocks.3.hook_resid_post", lambda m: m.model.layers[3]),
    ],
)
def test_splice_does_what_a_plain_hook_does(model, plain, tokens, hook_point, module_of):
    def edit(x):
        return x.roll(1, -1) * 1.5 + 0.1

    with replaced(module_of(plain), edit):
        wanted = plain(tokens).logits
    torch.testing.assert_close(
        splice(model, tokens, hook_point, edit, "keep"), wanted, rtol=1e-4, atol=1e-4
    )


def test_sinks_stay_clean_unless_told_otherwise(model, tokens):
    seen = {}
    for first_position in ("drop", "keep"):
        reading = lm.read(model, tokens, "blocks.1.hook_resid_post")
        with model.bridge.hooks(
            fwd_hooks=[
                (
                    "blocks.2.hook_resid_pre",
                    lambda x, hook, k=first_position: seen.__setitem__(k, x),
                )
            ]
        ):
            lm.resume(model, reading, torch.zeros_like, first_position)
    assert (seen["keep"] == 0).all()
    sinks = tokens == 0
    assert sinks[1, 5] and torch.equal(
        seen["drop"][sinks], lm.read(model, tokens, "blocks.1.hook_resid_post").x[sinks]
    )
    assert (seen["drop"][~sinks] == 0).all()


def test_sinks_are_separators_and_tokens_of_outstanding_norm(model):
    x = torch.ones(2, 6, 32)
    x[0, 0] *= 100
    x[0, 2] *= 3.1
    x[0, 3] *= 2.9
    x[1] *= 50  # every window has its own scale
    tokens = torch.tensor([[0, 5, 6, 7, 8, 9], [0, 5, 6, 0, 8, 9]])
    assert model.sinks(tokens, x).tolist() == [
        [True, False, True, False, False, False],
        [True, False, False, True, False, False],
    ]


def test_edit_may_change_its_argument_in_place(model, tokens):
    hook_point = "blocks.1.hook_resid_post"
    assert torch.equal(
        splice(model, tokens, hook_point, lambda x: x.mul_(2)),
        splice(model, tokens, hook_point, lambda x: 2 * x),
    )


def test_hooks_are_gone_after_an_exception(model, tokens):
    before, clean = n_hooks(model), model.bridge(tokens)
    with pytest.raises(RuntimeError, match="on purpose"):
        splice(
            model,
            tokens,
            "blocks.1.hook_resid_post",
            lambda x: (_ for _ in ()).throw(RuntimeError("on purpose")),
        )
    assert n_hooks(model) == before
    assert torch.equal(model.bridge(tokens), clean)  # and no block is skipped any more


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [({"avx2"}, "float32"), ({"avx2", "avx512_bf16"}, "bfloat16"), ({"amx_bf16"}, "bfloat16")],
)
def test_the_precision_is_the_faster_one_of_this_processor(flags, chosen, monkeypatch):
    monkeypatch.setattr(lm.loops, "processor_flags", lambda: flags)
    monkeypatch.setattr(lm.store, "device", lambda: "cpu")
    assert (
        lm.precision("auto") == chosen
        and lm.precision("float32") == "float32"
        and lm.precision("bfloat16") == "bfloat16"
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_splice_receives_what_harvest_stored(tiny_harvest, dtype):
    config = replace(tiny_harvest, dtype=dtype)
    harvest.harvest(config)
    stored = activations.load(config, "test", "keep")
    model, tokens = (
        lm.load(config.lm, dtype),
        harvest.windows(config).windows["test"].tokens[: lm.BATCH_WINDOWS],
    )
    seen = []
    splice(model, tokens, config.hook_point, lambda x: seen.append(x) or x)
    assert torch.equal(seen[0].half().flatten(0, 1), stored.raw(torch.arange(tokens.numel())))


@pytest.mark.parametrize(
    "config, block",
    [
        (
            GPT2Config(n_embd=32, n_layer=3, n_head=2, vocab_size=26, n_positions=32),
            GPT2LMHeadModel,
        ),
        (
            GPTNeoXConfig(
                hidden_size=32,
                num_hidden_layers=3,
                num_attention_heads=2,
                intermediate_size=64,
                vocab_size=26,
                max_position_embeddings=32,
            ),
            GPTNeoXForCausalLM,
        ),
    ],
)
def test_other_architectures(lm_folder, tmp_path, tokens, config, block):
    torch.manual_seed(0)
    block(config).save_pretrained(tmp_path)
    for file in lm_folder.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = lm.load(LMConfig(name=str(tmp_path)))
    clean = model.bridge(tokens)
    assert torch.equal(splice(model, tokens, "blocks.1.hook_resid_post", lambda x: x), clean)
    by_hook = model.bridge.run_with_hooks(
        tokens, fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: 0 * x)]
    )
    assert torch.equal(
        splice(model, tokens, "blocks.1.hook_resid_post", lambda x: 0 * x, "keep"), by_hook
    )


@pytest.mark.parametrize(
    "name",
    [
        "blocks.4.hook_resid_post",
        "blocks.1.hook_resid_mid",
        "blocks.1.hook_resid",
        "layers.1",
        "blocks.-1.hook_resid_post",
    ],
)
def test_unknown_hook_point(model, tokens, name):
    with pytest.raises(
        ValueError,
        match=f"hook_point = '{name}' is not known; allowed: blocks.N.SITE with N from 0 to 3 .*hook_resid_pre, hook_resid_post",
    ):
        lm.read(model, tokens, name)


def folder_of(model, lm_folder, folder):
    """A folder with a model and the tiny tokenizer, whose vocabulary has 26 words."""
    model.save_pretrained(folder)
    for file in lm_folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    return LMConfig(name=str(folder))


def layer_two(weights):
    return {name: w for name, w in weights.items() if ".layers.2." not in name}


@pytest.mark.parametrize(
    "change, message",
    [
        (layer_two, r"9 missing_keys: \['model.layers.2.input_layernorm.weight', .*"),
        (
            lambda w: w | {"model.layers.9.x": torch.ones(1)},
            r"1 unexpected_keys: \['model.layers.9.x'",
        ),
        (
            lambda w: {k: v[:10].clone() if len(v) == 26 else v for k, v in w.items()},
            r"1 mismatched_keys: .*embed_tokens.weight.*10, 32.*26, 32",
        ),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_named(lm_folder, tmp_path, change, message):
    folder = shutil.copytree(lm_folder, tmp_path / "lm")
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"lm = .* cannot be loaded.*do not fit; {message}"):
        lm.load(LMConfig(name=str(folder)))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 500\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tokenizer.json"])
def test_a_pointer_in_place_of_a_file_is_named(lm_folder, tmp_path, name):
    folder = shutil.copytree(lm_folder, tmp_path / "lm")
    (folder / name).write_bytes(POINTER)
    with pytest.raises(ValueError, match=f"{name} is a pointer: `git lfs pull`"):
        lm.load(LMConfig(name=str(folder)))


@pytest.mark.parametrize("share", [0, 0.001, 0.5])
def test_weights_that_are_empty_or_cut_short_are_named(lm_folder, tmp_path, share):
    folder = shutil.copytree(lm_folder, tmp_path / "lm")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged .* download it again"):
        lm.load(LMConfig(name=str(folder)))


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    "model, message",
    [
        (
            lambda: BertForMaskedLM(BertConfig(vocab_size=26, intermediate_size=64, **SMALL)),
            "BertForMaskedLM is not causal",
        ),
        (
            lambda: BloomForCausalLM(
                BloomConfig(vocab_size=26, n_layer=3, n_head=2, hidden_size=32)
            ),
            "cannot read and splice BloomForCausalLM",
        ),
        (
            lambda: T5ForConditionalGeneration(
                T5Config(vocab_size=26, d_model=32, num_layers=1, num_heads=2, d_ff=64, d_kv=16)
            ),
            "T5Config",
        ),
        (
            lambda: LlamaForCausalLM(LlamaConfig(vocab_size=10, intermediate_size=64, **SMALL)),
            "the tokenizer has 26 tokens, of which the model knows 10",
        ),
    ],
)
def test_models_that_would_give_wrong_numbers_are_refused_by_name(
    lm_folder, tmp_path, model, message
):
    config = folder_of(model(), lm_folder, tmp_path)
    with pytest.raises(ValueError, match=f"cannot be loaded.*{message}"):
        lm.load(config)


def test_a_model_without_a_site_says_which_it_has(lm_folder, tmp_path, tokens):
    mamba = MambaForCausalLM(MambaConfig(vocab_size=26, hidden_size=32, num_hidden_layers=2))
    model = lm.load(folder_of(mamba, lm_folder, tmp_path))
    assert torch.equal(
        splice(model, tokens, "blocks.1.hook_resid_post", lambda x: x), model.bridge(tokens)
    )
    allowed = "blocks.N.SITE .* SITE one of hook_resid_pre, hook_resid_post$"
    with pytest.raises(
        ValueError, match=f"'blocks.1.hook_mlp_out' is not known; allowed: {allowed}"
    ):
        lm.read(model, tokens, "blocks.1.hook_mlp_out")


def test_more_tokens_than_positions(model):
    with pytest.raises(ValueError, match="65 tokens in a row.* too many for .* 64 positions"):
        lm.read(model, torch.full((1, 65), 3), "blocks.1.hook_resid_post")


def test_a_separator_that_is_spelt_out_stays_text(model):
    encode, separator = lm.encoder(model.config)
    for ids in (
        encode(["the <|endoftext|> city"])[0],
        model.tokenizer("a <|endoftext|>").input_ids,
    ):
        assert len(ids) > 3 and separator not in ids


def test_a_tokenizer_without_any_separator(lm_folder, tmp_path):
    folder = shutil.copytree(lm_folder, tmp_path / "lm")
    words = Tokenizer(models.WordLevel({"<unk>": 0, "the": 1}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(folder)
    with pytest.raises(ValueError, match="no <.endoftext.>, nor a token that begins or ends"):
        lm.load(LMConfig(name=str(folder)))


def test_unknown_model(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError,
        match="lm = 'no/such-model' cannot be loaded. Allowed: 'smollm2-135m-instruct', a folder",
    ):
        lm.load(LMConfig(name="no/such-model"))


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded"):
        lm.load(LMConfig(name=str(tmp_path)))


def test_unknown_dtype_and_first_position(model, tokens):
    with pytest.raises(
        ValueError, match="dtype = 'float16' is not known; allowed: 'auto', 'float32', 'bfloat16'"
    ):
        lm.load(model.config, "float16")
    with pytest.raises(ValueError, match="first_position = 'skip' is not known"):
        splice(model, tokens, "blocks.1.hook_resid_post", lambda x: x, "skip")


@pytest.mark.smoke
def test_the_packaged_model():
    """The real model: identity bit-equal, sinks at separators, predictions that make sense."""
    config = HarvestConfig(train_windows=8)
    model, windows = lm.load(config.lm), harvest.windows(config).windows["train"].first(8)
    assert (model.d_model, model.n_layers, model.separator) == (576, 30, 0)
    clean = model.bridge(windows.tokens)
    assert torch.equal(splice(model, windows.tokens, config.hook_point, lambda x: x), clean)
    loss = torch.nn.functional.cross_entropy(
        clean[:, :-1].flatten(0, 1), windows.tokens[:, 1:].flatten()
    )
    assert 2 < loss < 4  # nats per token; a uniform guess has 10.8
    reading = lm.read(model, windows.tokens, config.hook_point)
    norm = reading.x.norm(dim=-1)
    assert norm[reading.sinks].median() > 50 * norm[~reading.sinks].median()


@pytest.mark.smoke
def test_a_damaged_copy_of_the_packaged_model_is_refused(tmp_path, monkeypatch):
    real = store.load("lm", {"lm": lm.assets.identity(lm.PACKAGED)})
    monkeypatch.setattr(
        real.__class__,
        "file",
        lambda self, name: (_ for _ in ()).throw(StoreError(f"{name} is corrupted")),
    )
    with pytest.raises(StoreError, match="is corrupted"):
        lm.load(LMConfig())
