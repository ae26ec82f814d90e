"""The one plotting style, and how figures and tables reach the page.

Figures (`companion.figures`) take their colours from here by role, and leave size and fonts to the
style. A notebook calls `setup(profile.label)` once, then

    plots.show(figures.intervals(fvu, "FVU"), "reconstruction-fvu", caption="...", alt="...")
    plots.table(frame, "reconstruction-errors", caption="...")

and refers to them in text as {numref}`fig-reconstruction-fvu` and
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

from companion import places, variants
from companion.estimates import number

STYLE = mpl.rc_params_from_file(places.DATA / "book.mplstyle", use_default_template=False)
WIDTH, _ = STYLE["figure.figsize"]
_PALETTE = pd.read_csv(places.DATA / "colours.csv", index_col="role", keep_default_na=False)
COLOURS = _PALETTE["light"].to_dict()
"""One colour per role in every chapter, apart under the three common colour-vision deficiencies."""
INK = COLOURS["ink"]
DARK = dict(zip(_PALETTE["light"], _PALETTE["dark"], strict=True))
"""What each of them becomes on a dark page."""
ROLES = {model: role for role, models in _PALETTE["models"].items() for model in models.split()}
"""The role of a model or path; one that is not listed has that of the first word of its name."""
_folder = places.BUILD / "figures"


def colour(model: str, baseline: str = "") -> str:
    """The colour of a model; over its twin without them, the joint model shows its interactions."""
    if model == "joint" and baseline == "joint_no_interaction":
        return COLOURS["interaction"]
    return COLOURS[ROLES.get(model) or ROLES.get(model.split("_")[0], "random")]


def in_words(name: str) -> str:
    """What a figure calls a model, as `data/models.toml` has it; other names as they are."""
    return variants.WORDS.get(name, name)


def setup(label: str = "walkthroughs") -> None:
    """Style, SVG output in notebooks, and the folder `_build/figures/<label>` for the files;
    `label` is the profile's, toy walkthroughs have none."""
    global _folder
    mpl.rcParams.update(STYLE)
    _folder = places.BUILD / "figures" / label
    if (shell := get_ipython()) is not None:
        backend_inline.set_matplotlib_formats("svg")
        if backend_inline.flush_figures in shell.events.callbacks["post_execute"]:
            # a figure reaches the page by `show` alone, be it in a later cell
            shell.events.unregister("post_execute", backend_inline.flush_figures)
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg)


def svg(figure: Figure) -> str:
    """The figure as SVG text whose colours, on a dark page, are exchanged as `DARK` says.

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
    """Put a figure on the page, numbered, with label `fig-<name>`; save it as `<name>.svg`.

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
    file.write_text(picture, encoding="utf-8")
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
    """Put a table on the page, numbered, with label `tab-<name>`; its index only if that is named.

    `formats`: format specs by column, else as `cell` has them; what is missing is shown as a dash.
    """
    if any(frame.index.names):
        frame = frame.reset_index()
    formats = formats or {}
    cells = {name: [cell(v, formats.get(name)) for v in frame[name]] for name in frame}
    cells = pd.DataFrame(cells).set_axis([cell(str(name)) for name in frame], axis=1)
    kinds = [frame[name].dropna().infer_objects() for name in frame]
    sides = ["--:" if pd.api.types.is_numeric_dtype(kind) else ":--" for kind in kinds]
    lines = [cells.columns, sides, *cells.to_numpy()]
    pipes = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    caption = " ".join(caption.split())
    forms = {
        "text/markdown": f":::{{table}} {caption}\n:name: tab-{name}\n\n{pipes}\n:::",
        "text/html": cells.style.hide(axis="index").set_caption(html.escape(caption)).to_html(),
        "text/plain": f"{caption}\n{pipes}",
    }
    display(forms, raw=True)


def cell(value, spec: str | None = None) -> str:
    """A table cell as MyST: numbers as `estimates.number` has them (`.3g` unless `spec` says
    otherwise); tags, and what would end the cell, made harmless."""
    if isinstance(value, numbers.Number) and not isinstance(value, bool):
        whole = isinstance(value, numbers.Integral)
        return number(value, spec or ("," if whole else ".3g" if abs(value) < 999.5 else None))
    if value is None or value is pd.NA:
        return number(value)
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def literal(text: str) -> str:
    """Text from elsewhere for a page: no sign in it is markup, maths or a role."""
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in text)
