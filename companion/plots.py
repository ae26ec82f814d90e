"""The one plotting style, and how figures and tables reach the page.

Figure functions live in `companion.figures`, those that several chapters share in the package
itself and the others in its modules: each takes a tidy frame and returns an `Axes`, takes its
colours from `COLOURS` by role, and leaves size and fonts to the style. A notebook calls
`setup(profile.label)` once, then

    plots.show(figures.loss_curves(history), "reconstruction-loss", caption=f"Loss of {n} models
    ...", alt="Two falling curves ...") plots.table(frame, "reconstruction-errors",
    caption=f"Held-out error, {n} articles; FVU, no unit.")

and refers to them in text as {numref}`fig-reconstruction-loss` and
{numref}`tab-reconstruction-errors`. Neither torch nor a notebook is needed to draw.
"""

import base64
import html
import io
import numbers

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from IPython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib_inline import backend_inline

from companion import places
from companion.estimates import number

WIDTH = 5.0
"""Inches. A phone shows 350 px of it, so that 11 pt letters are still some 10 px high there; stack
panels instead of widening."""
INK, GRID = "#1b2733", "#d5dbe1"
COLOURS = {
    "sae": "#0b4fb3",
    "joint": "#d5420c",
    "sequential": "#28a566",
    "linear": "#4a4420",
    "interaction": "#7d1f66",
    "random": "#8992a1",
    "published": "#b5770d",
    "controlled": "#12456e",
}
"""One colour per role, the same in every chapter; chosen to stay apart under the three common
colour-vision deficiencies."""
DARK = {
    INK: "#e6ebf0",
    "#000000": "#e6ebf0",
    GRID: "#3c4650",
    "#0b4fb3": "#7eaef6",
    "#d5420c": "#b8672e",
    "#28a566": "#3fe0a0",
    "#4a4420": "#f7dc58",
    "#7d1f66": "#dc2f95",
    "#8992a1": "#b9c4d2",
    "#b5770d": "#e3a94a",
    "#12456e": "#a9d4f5",
}
"""What each of them becomes on a dark page."""
RC = {
    "figure.figsize": (WIDTH, 3.2),
    "figure.constrained_layout.use": True,
    **dict.fromkeys(["figure.facecolor", "savefig.facecolor", "axes.facecolor"], "none"),
    **dict.fromkeys(["font.size", "axes.titlesize", "axes.labelsize"], 11),
    **dict.fromkeys(["xtick.labelsize", "ytick.labelsize", "legend.fontsize"], 10),
    "figure.titlesize": 12,
    **dict.fromkeys(["axes.spines.top", "axes.spines.right", "legend.frameon"], False),
    **dict.fromkeys(["axes.grid", "axes.axisbelow"], True),
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor"], INK),
    **dict.fromkeys(["xtick.color", "ytick.color", "patch.edgecolor"], INK),
    "image.cmap": "cividis",
    "axes.prop_cycle": mpl.cycler(color=list(COLOURS.values())),
    # letters as outlines look alike everywhere; a fixed salt makes equal figures equal files
    "svg.fonttype": "path",
    "svg.hashsalt": "featint",
}
_folder = places.BUILD / "figures"
_DRAWN_AS = {
    "sae": "sae decoder residual_sae",
    "joint": "joint mlp",
    "sequential": "sequential",
    "linear": "linear joint_no_interaction joint_linear sequential_linear ridge_on_x refit_at_cut "
    "polynomial",
    "interaction": "interaction sae_interaction joint_interaction sequential_interaction nfm",
    "published": "joint_own_path",
    "controlled": "true_codes",
    "random": "sae_soft_decoder sae_frozen_decoder sae_frozen_encoder",
}
ROLES = {model: role for role, models in _DRAWN_AS.items() for model in models.split()}
"""Which colour a model has, or a path; one that is not listed has that of the first word of its
name."""


def role(model: str, baseline: str = "") -> str:
    """The role of a model, or of a comparison; over its twin without them, the joint model shows
    its interactions."""
    if model == "joint" and baseline == "joint_no_interaction":
        return "interaction"
    return ROLES.get(model) or ROLES.get(model.split("_")[0], "random")


def style() -> None:
    """Make the book's style matplotlib's default."""
    mpl.rcParams.update(RC)


def setup(label: str = "walkthroughs") -> None:
    """Style, SVG output in notebooks, and the folder `_build/figures/<label>` for the files;
    `label` is the profile's, toy walkthroughs have none."""
    global _folder
    style()
    _folder = places.BUILD / "figures" / label
    if (shell := get_ipython()) is not None:
        backend_inline.set_matplotlib_formats("svg")
        if backend_inline.flush_figures in shell.events.callbacks["post_execute"]:
            # a figure reaches the page by `show` alone, be it in a later cell
            shell.events.unregister("post_execute", backend_inline.flush_figures)
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg)


def svg(figure: Figure) -> str:
    """The figure as SVG text that follows the theme: on a dark page every colour of `DARK` is
    exchanged.

    Matplotlib writes colours into `style` attributes, which only `!important` overrides. Saved
    without a date: equal figures are equal files.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    rule = '[style*="{0}: {1}"]{{{0}:{2}!important}}'
    rules = "".join(rule.format(p, *pair) for pair in DARK.items() for p in ("fill", "stroke"))
    head, mark, rest = buffer.getvalue().partition("<defs>")
    return f"{head}<style>@media (prefers-color-scheme: dark){{{rules}}}</style>{mark}{rest}"


def show(drawn: Axes | Figure, name: str, caption: str, alt: str) -> None:
    """Put a figure on the page, numbered, with label `fig-<name>`, caption and alt text; save it as
    `<name>.svg`.

    The caption says what n is and in which unit; it may hold MyST (maths, roles). `alt` says in a
    sentence or two what is to be seen. Raises ValueError if caption or alt text is empty.
    """
    for part, text in {"caption": caption, "alt": alt}.items():
        if not text.strip():
            has = f"the figure {name!r} has an empty {part}"
            raise ValueError(f"{has}; say in words what is to be seen")
    figure = drawn.get_figure(root=True) if isinstance(drawn, Axes) else drawn
    picture = svg(figure)
    plt.close(figure)  # else the notebook shows it once more at the end of the cell
    _folder.mkdir(parents=True, exist_ok=True)
    file = _folder / f"{name}.svg"
    file.write_text(picture)
    caption, alt = " ".join(caption.split()), " ".join(alt.split())
    options = f":name: fig-{name}\n:alt: {alt}\n:class: dark-light"
    source = f"data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()}"
    image = f'<img alt="{html.escape(alt)}" src="{source}">'
    below = f"<figcaption>{html.escape(caption)}</figcaption>"
    where = file.relative_to(places.PROJECT).as_posix()
    forms = {
        "text/markdown": f":::{{figure}} /{where}\n{options}\n\n{caption}\n:::",
        "text/html": f"<figure>{image}{below}</figure>",
        "text/plain": f"{caption} [{alt}]",
    }
    display(forms, raw=True)


def table(
    frame: pd.DataFrame, name: str, caption: str, formats: dict[str, str] | None = None
) -> None:
    """Put a table on the page, numbered, with label `tab-<name>`; the index is shown only if it is
    named.

    `formats` gives format specs by column (default `.3g` for floats, `,` for whole numbers); what
    is missing is shown as a dash.
    """
    if any(frame.index.names):
        frame = frame.reset_index()
    formats, rows = formats or {}, frame.itertuples(index=False)
    numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    cells = [
        [cell(value, formats.get(column)) for column, value in zip(frame, row, strict=True)]
        for row in rows
    ]
    lines = [list(map(str, frame)), ["--:" if n else ":--" for n in numeric], *cells]
    pipes = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    caption = " ".join(caption.split())
    styled = pd.DataFrame(cells, columns=frame.columns).style.hide(axis="index")
    forms = {
        "text/markdown": f":::{{table}} {caption}\n:name: tab-{name}\n\n{pipes}\n:::",
        "text/html": styled.set_caption(html.escape(caption)).to_html(),
        "text/plain": f"{caption}\n{pipes}",
    }
    display(forms, raw=True)


def cell(value, spec: str | None = None) -> str:
    """A table cell as MyST: numbers as `estimates.number` has them (`.3g` unless `spec` says
    otherwise), pipes made harmless."""
    if isinstance(value, numbers.Number) and not isinstance(value, bool):
        return number(value, spec or ("," if isinstance(value, numbers.Integral) else ".3g"))
    return number(value) if value is None or value is pd.NA else str(value).replace("|", "\\|")
