"""The page of a sweep, from the cells that are done: `python -m sweeps.page FILE PROFILE`. Ends with 1 if others are not, and names
them."""

import subprocess
import sys
from pathlib import Path

import papermill
import yaml

from companion import places
from sweeps import grid, trends

NOTEBOOK = Path(__file__).with_name("comparison.ipynb")


def build(sweep: grid.Sweep, file: Path, profile_name: str) -> Path:
    """Execute the comparison and make a page of it that looks like the book's; the page's path."""
    folder = sweep.folder / "page"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {"sweep_file": str(file.resolve()), "profile": profile_name}
    page = folder / f"{sweep.name}.ipynb"
    quiet = {"progress_bar": False, "extra_arguments": ["--IPKernelApp.log_level=ERROR"]}
    place = {"cwd": places.PROJECT, "kernel_name": "python3"}
    papermill.execute_notebook(NOTEBOOK, page, parameters, **place, **quiet)
    if not (figures := folder / "_build" / "figures").exists():  # where `plots.show` says they lie
        figures.parent.mkdir(exist_ok=True)
        figures.symlink_to(places.BUILD / "figures")
    (folder / "_toc.yml").write_text(f"format: jb-book\nroot: {page.stem}\n", encoding="utf-8")
    (folder / "_config.yml").write_text(yaml.safe_dump(config(sweep)), encoding="utf-8")
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "-W", folder]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "_build" / "html" / f"{page.stem}.html"


def config(sweep: grid.Sweep) -> dict:
    """The book's own settings, without what needs its other pages."""
    book = yaml.safe_load((places.PROJECT / "_config.yml").read_text(encoding="utf-8"))
    for part in ("exclude_patterns", "bibtex_bibfiles", "launch_buttons", "repository"):
        del book[part]
    for part in ("local_extensions", "extra_extensions"):
        del book["sphinx"][part]
    settings = book["sphinx"]["config"]
    settings["html_static_path"] = [str(places.PROJECT / p) for p in settings["html_static_path"]]
    for option in [name for name in settings if name.startswith(("tippy", "autodoc"))]:
        del settings[option]
    book["html"]["favicon"] = str(places.PROJECT / book["html"]["favicon"])
    return book | {"title": f"Sweep {sweep.name}"}


def main() -> int:
    file, profile_name = Path(sys.argv[1]), sys.argv[2]
    try:
        sweep = grid.read(file, profile_name)
        trends.frame(sweep)
    except ValueError as e:
        print(e, file=sys.stderr)
        return 2
    print(f"The comparison: {build(sweep, file, profile_name)}")
    lacking = trends.missing(sweep)
    for row in lacking.to_dict("records"):
        print(f"FAILED {row['cell']}: {row['what happened']}", file=sys.stderr)
    return int(len(lacking) > 0)


if __name__ == "__main__":
    sys.exit(main())
