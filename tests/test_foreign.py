"""SAEs of other libraries: read as they are meant, built on, and ours written so that they read them."""

import json
import subprocess
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import peer_saes, speed
from companion import cli, profiles, variants
from companion.places import PROJECT
from featint import activations, foreign, runs
from featint.activations import Activations
from featint.config import SAEConfig
from featint.sae import TopKSAE

D, N, K = 16, 64, 5
HOOK = "blocks.1.hook_resid_post"
PLAIN = {"architecture": "standard", "d_in": D, "d_sae": N, "metadata": {"hook_name": HOOK}}


def rows(harvest, x, mean, std) -> Activations:
    """Activations x (n, d_in) with any statistics."""
    n, names = len(x), ("token", "article", "topic", "position")
    origin = dict.fromkeys(names, torch.zeros(n, dtype=torch.int64))
    where, config = torch.arange(n), replace(harvest, hook_point=HOOK)
    return Activations(
        config, "keep", (x,), torch.tensor([0]), where, mean, std, titles=[], topics=[], **origin
    )


@pytest.fixture
def acts(tiny_harvest):
    generator = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(200, D, generator=generator)
    mean = torch.randn(D, generator=generator)
    return rows(tiny_harvest, x + mean, mean + 0.3, 1 + torch.rand(D, generator=generator))


def weights(*more: str) -> dict[str, torch.Tensor]:
    """Random ones of a folder in SAELens' format, with `more` of one number per feature."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"W_enc": (D, N), "W_dec": (N, D), "b_dec": (D,)} | dict.fromkeys(more, (N,))
    return {name: 0.3 * torch.randn(*of, generator=generator) for name, of in shapes.items()}


def put(folder, cfg: dict, tensors: dict, library: str = "saelens") -> str:
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / foreign.WEIGHTS[library])
    return str(folder)


def ours(source: str, acts: Activations) -> TopKSAE:
    """The SAE of a folder as a model here."""
    config = foreign.config(source, HOOK, D)
    model = TopKSAE(D, config)
    state = foreign.read(source, acts)
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model


@torch.no_grad()
def answers(model: TopKSAE, x: torch.Tensor, acts: Activations):
    """Codes of raw activations, dense, and the raw reconstruction."""
    codes = model.encode(acts.normalise(x))
    return codes.dense(N), acts.denormalise(model.decode(codes))


def by_hand(kind: str, cfg: dict, t: dict, x: torch.Tensor):
    """Codes and reconstruction, row by row and feature by feature as the libraries' papers have it."""
    codes = torch.zeros(len(x), N)
    for row, at in enumerate(x):
        at = at - t["b_dec"] if cfg.get("apply_b_dec_to_input", True) else at
        for i in range(N):
            u = (at * t["W_enc"][:, i]).sum() + t.get("b_enc", torch.zeros(N))[i]
            if kind == "jumprelu":
                codes[row, i] = u if u > t["threshold"][i] and u > 0 else 0
            elif kind == "gated":
                size = t["r_mag"][i].exp() * u + t["b_mag"][i]
                codes[row, i] = size if u + t["b_gate"][i] > 0 and size > 0 else 0
            else:
                codes[row, i] = u.clamp(min=0)
        if kind == "topk":
            least = codes[row].sort(descending=True).values[K - 1]
            codes[row, codes[row] < least] = 0
    return codes, codes @ t["W_dec"] + t["b_dec"]


@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu", "gated", "sparsify"])
@pytest.mark.parametrize("shifted", [True, False])
def test_an_sae_computes_on_z_scores_what_its_formula_says_of_raw_ones(
    kind, shifted, acts, tmp_path
):
    more = ("b_gate", "b_mag", "r_mag") if kind == "gated" else ("b_enc", "threshold")
    t, cfg, x = weights(*more), PLAIN | {"architecture": kind, "k": K}, acts.shards[0][:20]
    cfg["apply_b_dec_to_input"] = shifted or kind == "sparsify"
    if kind == "sparsify":
        theirs = {"encoder.weight": t["W_enc"].T, "encoder.bias": t["b_enc"]}
        theirs |= {name: t[name] for name in ("W_dec", "b_dec")}
        source = put(tmp_path / "layers.1", {"d_in": D, "k": K}, theirs, "sparsify")
    else:
        source = put(tmp_path / "sae", cfg, t)
    model = ours(source, acts)
    for got, meant in zip(
        answers(model, x, acts),
        by_hand("topk" if kind == "sparsify" else kind, cfg, t, x),
        strict=True,
    ):
        torch.testing.assert_close(got, meant, atol=1e-4, rtol=1e-4)
    if model.config.threshold:  # run at a smaller k it keeps the largest
        few = TopKSAE(D, replace(model.config, k=3))
        few.load_state_dict(model.state_dict())
        kept = few.encode(acts.normalise(x)).dense(N)
        whole = by_hand(kind, cfg, t, x)[0]
        least = whole.sort(descending=True).values[:, 2:3]
        torch.testing.assert_close(
            kept, torch.where(whole >= least, whole, 0), atol=1e-4, rtol=1e-4
        )


def test_an_expected_average_norm_is_that_of_the_activations(acts, tmp_path):
    t, x = weights("b_enc"), acts.shards[0]
    source = put(tmp_path / "sae", PLAIN | {"normalize_activations": "expected_average_only_in"}, t)
    scale = D**0.5 / x.norm(dim=1).mean()
    codes, x_hat = by_hand("standard", PLAIN, t, scale * x[:20])
    got = answers(ours(source, acts), x[:20], acts)
    torch.testing.assert_close(got, (codes, x_hat / scale), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("library", foreign.WEIGHTS)
@pytest.mark.parametrize("bias", [True, False])
def test_ours_is_written_for_raw_activations(library, bias, acts, tmp_path):
    model = TopKSAE(D, SAEConfig(d_sae=N, k=K, decoder_bias=bias), torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.b_enc += 0.1 * torch.randn(N, generator=torch.Generator().manual_seed(4))
    foreign.write(model, acts, library, tmp_path / "layers.1")
    cfg = json.loads((tmp_path / "layers.1" / "cfg.json").read_text(encoding="utf-8"))
    t = load_file(tmp_path / "layers.1" / foreign.WEIGHTS[library])
    if library == "sparsify":
        t |= {"W_enc": t["encoder.weight"].T, "b_enc": t["encoder.bias"]}
    x = acts.shards[0][:20]
    meant = by_hand("topk", cfg, t, x)
    torch.testing.assert_close(answers(model, x, acts), meant, atol=1e-4, rtol=1e-4)
    with pytest.raises(
        ValueError, match="to = 'torch' is not known; allowed: 'saelens', 'sparsify'"
    ):
        foreign.write(model, acts, "torch", tmp_path)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"d_in": 8}, r"d_in = 8, not 16; -p lm="),
        (
            {"metadata": {"hook_name": "blocks.3.hook_mlp_out"}},
            "-p hook_point=blocks.3.hook_mlp_out",
        ),
        ({"normalize_activations": "layer_norm"}, "= 'layer_norm', not 'none' or 'expected_"),
        ({"architecture": "temporal"}, "= 'temporal', not 'topk' or 'standard' or 'jump"),
    ],
)
def test_what_does_not_fit_is_said_with_what_would(changes, said, tmp_path):
    source = put(tmp_path / "sae", PLAIN | changes, weights("b_enc"))
    with pytest.raises(ValueError, match=said):
        foreign.config(source, HOOK, D)


def test_a_folder_without_an_sae_and_a_damaged_one_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="holds no SAE; allowed: a folder with .* or owner/name/folder"
    ):
        foreign.config(str(tmp_path), HOOK, D)
    source = put(tmp_path / "sae", PLAIN, weights("b_enc"))
    file = tmp_path / "sae" / foreign.WEIGHTS["saelens"]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged .*: copy or download the SAE again"):
        foreign.config(source, HOOK, D)


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_models_are_built_on_a_given_sae(kind, p, tmp_path):
    t = {name: v for name, v in weights("b_enc").items()}
    t |= {
        "W_enc": torch.randn(32, N) / 6,
        "W_dec": torch.randn(N, 32) / 6,
        "b_dec": torch.zeros(32),
    }
    t["threshold"] = torch.full((N,), 0.1)
    cfg = PLAIN | {"architecture": kind, "k": 6, "d_in": 32}
    source = put(tmp_path / "sae", cfg, t)
    p = profiles.with_sae(p, source)
    given, joint = variants.get("sae", p), variants.get("joint", p)
    assert given.finished and joint.sae.source is None
    assert joint.sae == SAEConfig(d_sae=N, k=6 if kind == "topk" else 4)
    trained = runs.get(given)
    assert torch.equal(trained.model.W_dec, runs.build(given, 32).W_dec)
    assert trained.history["validation_loss"].nunique() == 1
    x = activations.load(p.harvest, "train", p.train.first_position)
    fired = torch.zeros(N, dtype=torch.int64)
    for batch in x.batches(p.train):
        fired += (trained.model.encode(batch).dense(N) > 0).sum(0)
    assert torch.equal(trained.fired_tokens, fired)
    for name in ("sequential", "sequential_published"):
        built, base = runs.get(variants.get(name, p)), variants.get(name, p).base
        assert base.finished and base.train.first_position == built.config.train.first_position
        assert torch.equal(built.model.sae.W_dec, runs.get(base).model.W_dec)
        assert built.config.sae.k == (given.sae.k if name == "sequential" else 1)
    assert variants.get("secondary", p).base == variants.get("sequential", p)


def test_the_command_exports_an_sae_alone(p, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(profiles, "get", lambda name: p)
    assert cli.main(["export", "sae", str(tmp_path / "out"), "--to", "saelens"]) == 0
    trained, acts = runs.get(variants.get("sae", p)), activations.load(p.harvest, "train")
    state = foreign.read(str(tmp_path / "out"), acts)
    torch.testing.assert_close(state["W_enc"], trained.model.W_enc, atol=1e-5, rtol=1e-5)
    assert cli.main(["export", "joint", str(tmp_path / "no"), "--to", "saelens"]) == 2
    said = capsys.readouterr().err
    assert "name = 'joint' is not known; allowed: 'sae'," in said and "secondary" not in said
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_both_libraries_agree_with_us_about_theirs_and_ours(acts, tmp_path):
    """The real ones, in the benchmark's environment: every kind that they save, and what we write."""
    speed.environment()

    def peers(what, folder):
        command = [speed.VENV / "bin" / "python", "-m", "benchmarks.peer_saes", what, folder]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr

    peers("save", tmp_path / "theirs")
    theirs = sorted((tmp_path / "theirs").iterdir())
    assert len(theirs) == 7
    x = acts.shards[0]
    ask = {}
    for library in foreign.WEIGHTS:
        model = TopKSAE(D, SAEConfig(d_sae=N, k=K), torch.Generator().manual_seed(3))
        foreign.write(model, acts, library, tmp_path / "ours" / library)
        save_file({"x": x}, tmp_path / "ours" / library / peer_saes.ANSWER)
        ask[tmp_path / "ours" / library] = model
    peers("load", tmp_path / "ours")
    for folder in [*theirs, *ask]:
        answer = load_file(folder / peer_saes.ANSWER)
        model = ask.get(folder) or ours(str(folder), acts)
        acts_here, x_hat = answers(model, answer["x"], acts)
        size = answer["x_hat"].abs().max()
        assert (x_hat - answer["x_hat"]).abs().max() < 1e-5 * size, folder.name
        torch.testing.assert_close(acts_here, answer["acts"], atol=1e-5 * size.item(), rtol=1e-4)
