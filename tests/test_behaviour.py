"""The chapter on behaviour: the splice as published against its formula, estimates worked out by hand, figures against their data."""

import ast
import json
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pages
import pandas as pd
import pytest
import torch
from scipy import stats

from companion import estimates, notebook, places, plots, profiles, results, variants
from companion.chapters import behaviour
from companion.figures import behaviour as figures
from featint import activations, downstream, harvest, joint, lm, runs
from featint.config import NFMConfig, SAEConfig
from featint.joint import JointSAE
from featint.nfm import NFM
from featint.runs import Trained
from featint.sae import TopKSAE


def rows(kl, condition="sae", draw=-1, article=0, **more):
    """Rows of `downstream.evaluate` with these KLs, one per position."""
    frame = {"condition": condition, "draw": draw, "window": 0, "position": range(len(kl))}
    frame |= {"article": article, "kl": kl, "ce_clean": 1.0, "ce_spliced": 1.5}
    return pd.DataFrame(frame | {"top1_same": True, "error_norm": 2.0} | more)


@pytest.fixture(scope="module")
def models():
    """Untrained models of the tiny size."""
    p = replace(profiles.smoke(), d_in=32, sae=SAEConfig(d_sae=64, k=4), nfm=NFMConfig(d_factor=3))

    names = ("sae_published", "sequential_published", "joint_published")

    def untrained(name):  # no two share a weight
        config, generator = variants.get(name, p), torch.Generator().manual_seed(names.index(name))
        model = TopKSAE(32, config.sae, generator)
        if config.nfm is not None:
            model = JointSAE(model, NFM(32, 64, config.nfm, generator))
            for bias in (model.nfm.b_lin, model.nfm.b_hidden, model.nfm.b_out):
                bias.data.normal_(generator=generator)
        model.requires_grad_(False).eval()
        return Trained(config, model, pd.DataFrame(), torch.zeros(1), torch.zeros(1), 0.0, {}, "")

    return {name: untrained(name) for name in names}


def test_published_conditions_are_raw_and_the_interaction_alone_is_not_pooled(models):
    found = pages.run("behaviour", "parts", "published-conditions")["as_released"](models)
    x = 3 * torch.randn(9, 32, generator=torch.Generator().manual_seed(1))
    sae, nfm = models["sae_published"].model, models["sequential_published"].model.nfm
    codes = sae.encode(x)
    c = torch.zeros(9, 64).scatter_(1, codes.indices.long(), codes.acts)
    out, linear = c @ sae.W_dec, c @ nfm.W_lin + nfm.b_lin
    plain = ((c @ nfm.V) @ nfm.W_hidden + nfm.b_hidden).relu() @ nfm.W_out + nfm.b_out
    pooled = ((c @ nfm.V).square() - c.square() @ nfm.V.square()) / 2
    interaction = (pooled @ nfm.W_hidden + nfm.b_hidden).relu() @ nfm.W_out + nfm.b_out
    joint = models["joint_published"].model
    parts = joint.parts(joint.encode(x))
    wanted = {
        "sae": out,
        "sequential_linear": out + linear,
        "sequential_interaction": out + plain,
        "sequential": out + linear + interaction,
        "joint_own_path": parts["sae_out"],
        "joint_linear": parts["sae_out"] + parts["linear_out"],
        "joint_interaction": parts["sae_out"] + parts["interaction_out"],
        "joint": joint(x).x_hat,
    }
    assert set(found) == set(wanted)
    for name, x_hat in wanted.items():
        torch.testing.assert_close(found[name](x), x_hat, rtol=1e-4, atol=1e-4)


def test_the_published_splice_is_one_block_later_on_training_text(tiny_harvest):
    p = replace(profiles.smoke(), harvest=tiny_harvest, seeds=(3,))
    harvest.harvest(tiny_harvest)
    model = lm.load(tiny_harvest.lm)
    found = behaviour.splice_published(model, {3: {"half": lambda x: x / 2}}, p, 2, draws=1)
    assert set(found["seed"]) == {3} and set(found["condition"]) == {"half"}
    assert tiny_harvest.hook_point == "blocks.1.hook_resid_post"
    tokens = harvest.windows(tiny_harvest).windows["train"].tokens[:2]
    clean = lm.read(model, tokens, "blocks.2.hook_resid_post").x
    own = found[found.draw < 0].sort_values(["window", "position"])
    length = clean.norm(dim=-1)[:, :-1] / 2  # position 0 too; the last has nothing to predict
    assert own["error_norm"].tolist() == pytest.approx(length.flatten().tolist(), rel=1e-5)
    assert sorted(found["draw"].unique()) == [-1, 0]


def test_a_splice_of_several_seeds_is_that_of_each(tiny_harvest):
    harvest.harvest(tiny_harvest)
    model, windows = (
        lm.load(tiny_harvest.lm),
        harvest.windows(tiny_harvest).windows["test"].first(3),
    )
    seeds = {4: {"half": lambda x: x / 2, "most": lambda x: 0.9 * x}, 7: {"half": lambda x: x / 3}}
    how = {"draws": 2, "seed": 5, "start": 1}
    found = behaviour.splice(model, windows, tiny_harvest, seeds, **how)
    assert set(found["seed"]) == {4, 7} and len(found) == 3 * (found.seed == 7).sum()
    for seed, conditions in seeds.items():
        alone = downstream.evaluate(model, windows, tiny_harvest, conditions, **how)
        of_seed = found[found.seed == seed].drop(columns="seed").reset_index(drop=True)
        pd.testing.assert_frame_equal(of_seed[alone.columns], alone, check_dtype=False)


def test_shares_of_windows_by_hand():
    # 5 of 50; never below 2, above 40, or more than there are
    shares = {(50, 0.1): 5, (8, 0.1): 2, (820, 0.1): 40, (820, 1 / 32): 26, (1, 0.5): 1}
    assert {args: behaviour.share_of(*args) for args in shares} == shares


def contributions(kl):
    """The page's contributions, of the joint model alone."""
    orders = {"sequential": ["sae", "sequential_linear", "sequential_interaction", "sequential"]}
    orders["joint"] = ["joint_own_path", "joint_linear", "joint_interaction", "joint"]
    by_name = {name: kl[c] for names in orders.values() for name, c in zip(names, kl, strict=True)}
    sums = {"kl": pd.DataFrame(by_name)}
    found = pages.run("behaviour", "contributions", on_detail=sums)["contributions"]
    assert found.model.value_counts().tolist() == [6, 6]
    return found[found.model == "joint"]


def test_contributions_by_hand():
    """KL in all: 10 with neither path, 6 with the linear, 9 with the interaction one, 4 with both."""
    kl = pd.DataFrame(
        {"none": [5.0, 3, 2], "lin": [3.0, 2, 1], "int": [5.0, 2, 2], "both": [2.0, 1, 1]}
    )
    found = contributions(kl)
    values = found.set_index(["part", "quantity"])["value"].to_dict()
    assert values == pytest.approx(
        {
            ("linear", "contribution_alone"): 40.0,  # 100 (10 - 6) / 10
            ("interaction", "contribution_alone"): 10.0,  # 100 (10 - 9) / 10
            ("linear", "contribution_last"): 50.0,  # 100 (9 - 4) / 10
            ("interaction", "contribution_last"): 20.0,  # 100 (6 - 4) / 10
            ("linear", "contribution_shapley"): 45.0,
            ("interaction", "contribution_shapley"): 15.0,
        }
    )
    same = found[["model", "n", "of", "unit", "protocol"]].drop_duplicates()
    assert same.values.tolist() == [["joint", 3, "articles", "%", "controlled"]]


def test_unpaired_tests_by_hand():
    """1, 2, 3 against 2, 4, 6: difference -2, pooled variance (1 + 4) / 2, so that
    t = -2 / sqrt(2.5 * 2 / 3) and t^2 = 2.4; with 4 degrees of freedom p = 1 - 1.5 s + 0.5 s^3,
    s^2 = t^2 / (t^2 + 4)."""
    frame = pd.concat(
        [
            rows([1.0, 2.0, 3.0], "joint", ce_spliced=[9.0, 8.0, 7.0]),
            rows([2.0, 4.0, 6.0], "own_path", ce_spliced=[3.0, 2.0, 1.0]),
            rows([0.0, 0.0, 0.0], "sae"),
            rows([2.0, 4.0, 6.0], "sae", draw=0),
            rows([2.0, 4.0, 6.0], "sae", draw=1),
            rows([50.0, 60.0, 80.0], "own_path", draw=0),  # twins of another condition
        ]
    )
    pairs = [("joint", "own_path"), ("own_path", "joint"), ("joint", "eps_random")]
    page = pages.run("behaviour", "unpaired-tests", first={"published": frame})
    found = page["unpaired_tests"]("kl", pairs)
    assert found[["model", "baseline"]].values.tolist() == [list(pair) for pair in pairs]
    # against six random errors, 2 4 6 2 4 6: squares 2 + 16, over 7, pooled variance 18 / 7
    t_random = -2 / np.sqrt(18 / 7 * (1 / 3 + 1 / 6))
    assert found["t"].tolist() == pytest.approx([-np.sqrt(2.4), np.sqrt(2.4), t_random])
    s = np.sqrt(2.4 / 6.4)
    assert found["p"].tolist()[:2] == pytest.approx([1 - 1.5 * s + 0.5 * s**3] * 2)
    ce = page["unpaired_tests"]("ce_spliced", pairs[:1])  # 6 apart, both variances 1
    assert ce["t"].tolist() == pytest.approx([6 / np.sqrt(2 / 3)])


def test_three_tests_by_hand():
    """Differences 1, 3 in one article, 0 in the next, 2, 4 in the third; their mean is 2."""
    pieces = [("a", [1.0, 4.0], 0), ("a", [2.0], 1), ("a", [5.0, 8.0], 2)]
    pieces += [("b", [0.0, 1.0], 0), ("b", [2.0], 1), ("b", [3.0, 4.0], 2)]
    frame = pd.concat([rows(kl, condition, article=article) for condition, kl, article in pieces])
    twins = rows([70.0, 80.0], "a", draw=0)
    found = behaviour.three_tests(
        pd.concat([frame, twins]).sample(frac=1, random_state=0), "a", "b"
    )
    names = ["tokens, two samples", "tokens, paired", "tokens, paired, clustered"]
    assert found["test"].tolist() == names
    assert found.columns.tolist() == ["test", "n", "difference", "t", "df", "p", "lo", "hi"]
    assert found["n"].tolist() == [10, 5, 3] and found["df"].tolist() == [8, 4, 2]
    assert found["difference"].tolist() == pytest.approx([2.0] * 3)
    # variances 7.5 and 2.5 of a and b, 5 pooled; 2.5 of the differences; sums of residuals within
    # articles 0, -2, 2, whose squares times 3 / 2 are 12
    errors = [np.sqrt(5 * 2 / 5), np.sqrt(2.5 / 5), np.sqrt(12) / 5]
    assert found["t"].tolist() == pytest.approx([2 / error for error in errors])
    t = 2 / errors[2]
    assert found["p"].iloc[2] == pytest.approx(1 - t / np.sqrt(t**2 + 2))  # 2 degrees of freedom
    half = 4.302653 * errors[2]
    assert found[["lo", "hi"]].values.tolist()[2] == pytest.approx([2 - half, 2 + half], rel=1e-5)
    half = 2.776445 * errors[1]
    assert found[["lo", "hi"]].values.tolist()[1] == pytest.approx([2 - half, 2 + half], rel=1e-5)
    with pytest.raises(ValueError, match="is not finite"):
        behaviour.three_tests(frame.iloc[1:], "a", "b")
    assert behaviour.three_tests(frame[frame.article < 2], "a", "b")["n"].tolist() == [6, 3, 2]
    with pytest.raises(ValueError, match="all tokens are of one article"):
        behaviour.three_tests(frame[frame.article == 0], "a", "b")


NAMES = """zero mean sae sae_tuned sae_matched sequential_linear sequential_interaction sequential
joint_own_path joint_linear joint_interaction joint joint_no_interaction sae_error_50 sae_error_75"""
NUMBERS = (97.0, 89, 30, 27, 26, 25, 28, 23, 41, 35, 37, 21, 22, 7, 17)
PUBLISHED = {"sae", *NAMES.split()[5:12]}
KL = dict(zip(NAMES.split(), NUMBERS, strict=True))
"""Of each condition on the page, in made-up rows; published, the tenth part of its square."""
OF_THE_PAPER = {name: kl**2 / 10 for name, kl in KL.items() if name in PUBLISHED}


def seeded(kls, seed):
    """The KLs of the models of a seed."""
    return {c: kl * (1.5 if seed and c != "sae" else 1) for c, kl in kls.items()}


def made(kls, n, start=0, draws=0):
    """Rows of n windows, two to an article, whose KL is a condition's times a token's; twins have
    half of it, and cross-entropies rise by its square."""
    place = pd.MultiIndex.from_product([range(start, n), range(4)], names=["window", "position"])
    tokens = place.to_frame(index=False).assign(top1_same=True, ce_clean=3.0)
    tokens["article"] = tokens.window // 2
    times = 1 + (7 * tokens.window + 3 * tokens.position) % 5
    return pd.concat(
        tokens.assign(condition=name, draw=d, kl=times * kl / (1 if d < 0 else 2)).assign(
            ce_spliced=3 + times * kl**2, error_norm=kl
        )
        for name, kl in kls.items()
        for d in range(-1, draws)
    )


@pytest.fixture(scope="module")
def cells():
    """What the page's cells leave behind and save if all that is measured are rows made up here.
    With the second seed all KLs but the SAE's are half as high again."""
    p = replace(profiles.smoke(), seeds=(0, 1), splice_windows=40)
    names, saved = {}, []

    def windows(n):
        return SimpleNamespace(n=n, first=windows)

    def by_seed(kl, conditions, *how):
        frames = []
        for seed, of in conditions.items():  # a condition is the seed of its model, if it has one
            seeds = {c: x if isinstance(x, int) else seed for c, x in of.items()}
            frames.append(made({c: seeded(kl, x)[c] for c, x in seeds.items()}, *how))
            frames[-1]["seed"] = seed
        return pd.concat(frames)

    def splice(_, windows, harvest, conditions, draws=0, seed=0, start=0, first_position="drop"):
        return by_seed(KL, conditions, windows.n, start, draws)

    def published(_, conditions, p, n, draws=0):
        return by_seed(OF_THE_PAPER, conditions, n, 0, draws)

    instead = {
        (notebook, "start"): lambda _: p,
        (runs, "get"): lambda config: SimpleNamespace(
            seed=config.train.seed, model=SimpleNamespace(nfm=None, seed=config.train.seed)
        ),
        (activations, "load"): lambda *_: SimpleNamespace(mean=torch.zeros(1)),
        (lm, "load"): lambda *_: None,
        (harvest, "windows"): lambda _: SimpleNamespace(windows={"test": windows(99)}),
        (downstream, "of_model"): lambda trained, *_: trained.seed,
        (downstream, "shrunk"): lambda *_: None,
        (behaviour, "splice"): splice,
        (joint, "JointSAE"): lambda sae, _: sae,
        (downstream, "by_path"): lambda model, _: model.seed,
        (behaviour, "splice_published"): published,
        (results, "save"): lambda p, chapter, frame, **_: saved.append(frame),
    }
    with pytest.MonkeyPatch.context() as m, plt.rc_context():
        for (module, name), function in instead.items():
            m.setattr(module, name, function)
        for cell in nbformat.read(notebook.FOLDER / "behaviour.ipynb", as_version=4).cells:
            if cell.cell_type == "code" and not saved:
                tree = ast.parse(cell.source)
                tree.body = [x for x in tree.body if not ast.unparse(x).startswith("plots.")]
                exec(compile(tree, "behaviour.ipynb", "exec"), names)
    plt.close("all")
    return names | {"saved": estimates.tidy(saved[0])}


def test_a_hook_point_in_the_last_block_has_none_later():
    p = profiles.smoke()
    later = behaviour.one_later(p)
    assert later == replace(p.harvest, hook_point="blocks.16.hook_resid_post")
    with pytest.raises(ValueError, match="'blocks.15.hook_resid_post' is in the last of 16 blocks"):
        behaviour.one_later(replace(p, n_layers=16))


def test_the_page_compares_with_the_baselines_that_it_names(cells):
    """Every reduction, ratio and test is of the two conditions in its name, and no other."""
    paper = made(OF_THE_PAPER, cells["n_published"], draws=1)
    own, twins = paper[paper.draw < 0], paper[(paper.draw == 0) & (paper.condition == "sae")]
    of = {}  # quantity and protocol: the numbers of each seed
    for seed in (0, 1):
        kl, released = seeded(KL, seed), seeded(OF_THE_PAPER, seed)
        rise = {name: x**2 for name, x in kl.items()}
        rows = made(released, cells["n_published"])
        ce = rows.groupby("condition")["ce_spliced"].mean()
        numbers = {
            ("kl_reduction", "controlled"): kl,
            ("kl_reduction", "as published"): released,
            ("ce_reduction", "controlled"): rise,
            ("ce_reduction", "as published"): ce,
            ("recovered", "controlled"): rise,
        }
        for key, number in numbers.items():
            of.setdefault(key, []).append(number)
    for name, (model, path) in cells["parts"].items():
        assert name == (model if path == "all" else f"{model}_{path.removeprefix('plus_')}")
    checked = 0
    for row in cells["saved"].itertuples():
        numbers = of.get((row.quantity, row.protocol))
        if numbers:
            pairs = np.array([(each[row.model], each[row.baseline]) for each in numbers])
            assert row.of == "articles x 2 seeds"
            pairs = pairs.sum(0, keepdims=True)
            wanted = np.mean(100 * (1 - pairs[:, 0] / pairs[:, 1]))
        elif (row.quantity, row.protocol) == ("kl_ratio", "as published"):
            total = 1 if row.model == "sae" else 2.5 / 2  # of both seeds
            wanted = total * OF_THE_PAPER[row.model] / (OF_THE_PAPER["sae"] / 2)
        elif row.quantity == "kl_ratio":
            wanted = 2
        elif row.quantity == "t" and row.baseline == "eps_random":
            wanted = stats.ttest_ind(own.kl[own.condition == row.model], twins.kl.repeat(5))[0]
        else:
            assert not row.baseline, row
            continue
        checked += 1
        assert row.value == pytest.approx(wanted), row
    assert checked > 60
    both = cells["both"].set_index(["model", "part", "protocol"])["value"]
    assert both.to_dict() == pytest.approx(
        {
            ("sequential", "", "as published"): 100 * (1 - 1.25 * 23**2 / 30**2),
            ("sequential", "", "controlled"): 100 * (1 - 1.25 * 23 / 30),
            ("joint", "", "as published"): 100 * (1 - 21**2 / 41**2),
            ("joint", "", "controlled"): 100 * (1 - 1.25 * 21 / 30),
            ("joint", "interaction", "as published"): 100 * (1 - 37**2 / 41**2),
            ("joint", "interaction", "controlled"): 100 * (1 - 21 / 22),
        }
    )
    shares = cells["contributions"].set_index(["model", "part", "quantity"])["value"]
    assert shares["sequential", "linear", "contribution_alone"] == pytest.approx(
        100 * (1 - 1.25 * 25 / 30)
    )
    assert shares["joint", "interaction", "contribution_last"] == pytest.approx(100 * 14 / 41)


def test_the_page_saves_what_the_ledger_reads_from_it(cells):
    saved = set(map(estimates.identifier, cells["saved"].itertuples()))
    entries = json.loads((places.DATA / "paper_values.json").read_text(encoding="utf-8"))
    asked = {
        name.removeprefix("behaviour:")
        for entry in entries
        for name in (entry["as_published"], entry["controlled"], *entry.get("beside", {}))
        if name and name.startswith("behaviour:")
    }
    assert len(asked) > 10 and asked <= saved


@pytest.fixture
def style():
    with plt.rc_context():
        plots.setup()
        yield
    plt.close("all")


def test_boxes_and_histograms_show_a_condition_beside_its_random_twin(style):
    frame = pd.concat([rows([0.1, 0.3, 0.8]), rows([0.2, 0.2, 0.5], draw=0), rows([9.0], "joint")])
    ax = figures.boxes(frame, {"sae": "SAE"})
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [d.get_xdata()[0] for d in dots] == pytest.approx([0.3, 0.4])  # means: twin, condition
    assert [d.get_color() for d in dots] == [plots.COLOURS["random"], plots.COLOURS["sae"]]
    assert dots[1].get_ydata()[0] < dots[0].get_ydata()[0] and ax.yaxis_inverted()
    (panel,) = figures.histograms(frame, {"sae": "SAE"}).axes
    lines = [line.get_xdata()[0] for line in panel.lines]  # mean and median of twin and condition
    assert lines == pytest.approx([0.3, 0.2, 0.4, 0.3])
    tops = [np.max(patch.get_xy()[:, 1]) for patch in panel.patches]
    assert tops == pytest.approx([200 / 3, 100 / 3])  # per cent of the tokens


def test_positions_show_means(style):
    frame = pd.concat(
        [
            rows([1.0, 3.0, 5.0], position=[0, 1, 1]).assign(protocol="as published"),
            rows([2.0, 6.0], position=[1, 1]).assign(protocol="controlled"),
        ]
    )
    published, controlled = figures.by_position(frame, {"sae": "SAE"}).axes
    assert published.get_title(loc="left") == "as published"
    assert published.lines[0].get_xydata().tolist() == [[0.5, 1.0], [1.0, 4.0]]
    assert controlled.lines[0].get_xydata().tolist() == [[1.0, 4.0]]


def test_norms_are_drawn_over_the_curve_of_random_errors(style):
    levels = pd.DataFrame(
        {"error_norm": [10.0, 20, 19], "kl": [1.0, 4.0, 3.0], "kl_random": [0.5, 1.0, 0.9]},
        index=["sae_error_50", "sae", "joint"],
    )
    labels = {"sae": "SAE", "joint": "joint"}
    whole, near = figures.norm_curve(levels, labels, ["sae", "sae_error_50"]).axes
    random, own, *points = whole.lines
    assert random.get_xydata().tolist() == [[10, 0.5], [19, 0.9], [20, 1.0]]
    assert own.get_xydata().tolist() == [[10, 1], [20, 4]]
    assert [p.get_xydata().tolist() for p in points] == [[[20, 4]], [[19, 3]]]
    law = near.lines[-1].get_xydata()  # four times the KL at twice the length: a square
    assert law[0].tolist() == pytest.approx([19, 4 * 0.95**2]) and law[-1].tolist() == [20, 4]


def test_contributions_have_a_panel_per_model(style):
    kl = pd.DataFrame(
        {"none": [5.0, 3, 2], "lin": [3.0, 2, 1], "int": [5.0, 2, 2], "both": [2.0, 1, 1]}
    )
    frame = contributions(kl)
    (ax,) = figures.contributions(frame).axes
    dots = {line.get_label(): line.get_xdata().tolist() for line in ax.lines[:2]}
    assert dots["linear"] == pytest.approx([40, 50, 45])
    assert dots["interaction"] == pytest.approx([10, 20, 15])
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["added first", "added last", "mean (Shapley)"]
