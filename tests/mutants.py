"""Do the tests notice small faults? `make mutants` changes each module that computes a number a
reader sees, in one place after another, and runs the module's tests, of which one must fail.

The changes are mutmut's: a sign or comparison turned, a number plus one, a text, an argument left
out, an assignment emptied. Its own runner leaves out what stands under a decorator (`no_grad`,
`property`) or outside functions, so that they are made and run here. Not counted are type
annotations, docstrings, what is raised, asserted or imported, texts for eyes (captions, progress,
log lines) and `strict=True`, which only guards.

One session of pytest per module collects its tests and runs them once. Each change then is made in
a fork of it: the code of the changed function takes the place of the old, and the tests that ran
that function run again, the quickest first, until one fails. What acts on import (constants,
defaults, functions called then) is imported anew in the fork. Time is CPU time, so that a busy
machine condemns nobody. `_build/mutants/` keeps what was found: a change is tried again only when
the module or its tests are no longer the same.
"""

import argparse
import difflib
import gc
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections import defaultdict
from functools import _lru_cache_wrapper
from importlib.machinery import SourceFileLoader
from itertools import pairwise
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

import libcst as cst
import pytest
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal, operator_string
from tqdm import tqdm

PROJECT = Path(__file__).resolve().parents[1]
MODULES = {
    "companion": "estimates published designs verdicts ledger compare results",
    "companion/chapters": "*",
    "featint": "metrics reconstruction downstream interventions geometry path_effects pair_effects"
    " sae nfm joint secondary activations planted",
}
"""What computes a number a reader sees. `name` is tested by tests/test_name.py, or by those here:"""
TESTS = {"featint/sae": "models sparse", "featint/nfm": "models", "featint/joint": "models"}
UNCOUNTED = (cst.Annotation, cst.Decorator, cst.Raise, cst.Assert, cst.Import, cst.ImportFrom)
FOR_EYES = {"caption", "alt", "desc", "strict"}  # arguments
LOGS = {"print", "warn", "threadpool_limits", "len", "isinstance"}  # calls; two as in mutmut
ENOUGH = 90  # per cent
GRACE, MEMORY = 20, 4 * 2**30  # seconds and bytes that a mutant may need beyond what the tests do
OURS = (
    "featint",
    "companion",
    "conftest",
    "test_",
    "pages",
    "toy",
    "shapes",
    "jaxtyping",
    "beartype",
)
"""What is imported anew: ours, and beartype, which remembers classes by name."""
KEPT = ("featint.kernels", "featint.store")  # but for the kernels, lest they be compiled again


class Mutant(NamedTuple):
    source: str
    """The whole module, changed."""
    line: int
    change: str
    """The changed lines, as a diff."""
    function: str | None
    """Outermost function whose body holds the change; None if it acts on import."""


class Changes(cst.CSTVisitor):
    """All changes of one statement: (node, what takes its place, function around it)."""

    def __init__(self):
        super().__init__()
        self.found, self.scope = [], []

    def on_visit(self, node) -> bool:
        docstring = isinstance(node, cst.Expr) and isinstance(node.value, cst.BaseString)
        called = getattr(node, "func", None)
        called = getattr(getattr(called, "attr", called), "value", None)
        if docstring or isinstance(node, UNCOUNTED) or called in LOGS or for_eyes(node):
            return False
        kinds = [isinstance(scope, cst.FunctionDef) for scope in self.scope]
        inside = self.scope[: kinds.index(True) + 1] if any(kinds) else []
        function = ".".join(scope.name.value for scope in inside) or None
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                self.found += [(node, new, function) for new in fewer(operator, node)]
        return True

    def on_visit_attribute(self, node, attribute):
        if attribute == "body" and isinstance(node, cst.ClassDef | cst.FunctionDef):
            self.scope.append(node)

    def on_leave_attribute(self, node, attribute):
        if attribute == "body" and isinstance(node, cst.ClassDef | cst.FunctionDef):
            self.scope.pop()


def for_eyes(node) -> bool:
    return isinstance(node, cst.Arg) and bool(node.keyword) and node.keyword.value in FOR_EYES


def fewer(operator, node) -> list:
    """An operator's changes of a node, less those that say the same again: one of a text instead of
    three; None for an argument only where it cannot be left out."""
    changes = list(operator(node))
    if operator is operator_string:
        return changes[:1]
    if operator is operator_arg_removal:
        changes = zip(node.args, changes[-len(node.args) :] if node.args else [], strict=False)
        return [change for argument, change in changes if not for_eyes(argument)]
    return changes


def mutants(source: str) -> list[Mutant]:
    """Every counted change of a module that is still Python."""
    module, made = cst.parse_module(source), []
    parts = [module.code_for_node(node) for node in (*module.header, *module.body)]
    for i, statement in enumerate(module.body, len(module.header)):
        statement.visit(changes := Changes())
        for node, new, function in changes.found:
            part = module.code_for_node(statement.deep_replace(node, new))
            whole = "".join([*parts[:i], part, *parts[i + 1 :]])
            try:
                compile(part, "mutant", "exec", dont_inherit=True)
            except SyntaxError:
                continue
            diff = difflib.unified_diff(parts[i].split("\n"), part.split("\n"), n=0)
            _, _, where, *lines = diff
            line = "".join(parts[:i]).count("\n") + int(where.split()[1].strip("-").split(",")[0])
            change = "\n".join(f"{x[0]} {x[1:].strip()}" for x in lines if x[0] in "+-")
            made.append(Mutant(whole, line, change, function))
    return made


class Session:
    """A plugin of pytest: instead of the tests once, the tests for one mutant after another."""

    def __init__(self, path: Path, todo: list[Mutant], arguments: list[str], note):
        self.path, self.todo, self.arguments, self.note = path, todo, arguments, note
        self.ran = defaultdict(set)  # function -> ids of tests that ran it, "import", "shared"
        self.seconds, self.where, self.failed = {}, "import", False

    def profile(self, frame, event, _):
        if event == "call" and frame.f_code.co_filename == str(self.path):
            self.ran[frame.f_code.co_qualname.split(".<locals>")[0]].add(self.where)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self):
        sys.setprofile(self.profile)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        before = self.where
        self.where = before if fixturedef.scope == "function" else "shared"
        try:
            return (yield)
        finally:
            self.where = before

    def pytest_runtest_logreport(self, report):
        self.failed |= report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        self.items = session.items
        start = time.process_time()
        for item in self.run(self.items):
            self.seconds[item.nodeid], start = time.process_time() - start, time.process_time()
        sys.setprofile(None)
        self.loader = next(
            m.__loader__
            for m in [*sys.modules.values()]
            if vars(m).get("__file__") == str(self.path)
        )
        self.codes = dict(codes(self.loader.source_to_code(self.path.read_bytes(), self.path)))
        caches = [x for x in gc.get_objects() if type(x) is _lru_cache_wrapper]
        self.caches = [x for x in caches if x.__module__ == self.loader.name]
        functions = [x for x in gc.get_objects() if type(x) is FunctionType]
        self.functions = [x for x in functions if x.__code__.co_filename == str(self.path)]
        session.config.option.tbstyle = "no"
        gc.freeze()
        self.ran["nothing"] = {*self.seconds}  # unchanged, in both ways
        unchanged = [
            Mutant(self.path.read_text(encoding="utf-8"), 0, "", f) for f in (None, "nothing")
        ]
        broken = self.failed or any(self.fork(m)[0] != "survived" for m in unchanged)
        for mutant in () if broken else self.todo:
            self.note(mutant, *self.fork(mutant))
        session.testsfailed = int(broken)
        return True

    def run(self, items: list):
        """Run tests one by one; fixtures of a module or session stay as they are."""
        other = [item for item in self.items if item is not items[-1]] if items else []
        for item, following in pairwise([*items, *other[:1], None][: len(items) + 1]):
            self.where = item.nodeid
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            yield item

    def fork(self, mutant: Mutant) -> tuple[str, float]:
        """What becomes of a mutant, and the seconds that it took."""
        folder = Path(self.arguments[-1])
        kept = {*folder.glob("*")}
        if (child := os.fork()) == 0:
            os._exit(self.try_out(mutant))
        _, status, used = os.wait4(child, 0)
        for made in {*folder.glob("*")} - kept:
            shutil.rmtree(made, ignore_errors=True)
        late = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM)
        outcome = "timeout" if late else "killed" if status else "survived"
        return outcome, used.ru_utime + used.ru_stime

    def try_out(self, mutant: Mutant) -> int:
        """In the fork: 0 if all tests pass."""
        ran = self.ran[mutant.function] if mutant.function else {"import"}
        again = bool(ran & {"import", "shared"})
        chosen = [item for item in self.items if again or item.nodeid in ran]
        seconds = 5 * sum(self.seconds[item.nodeid] for item in chosen) + GRACE
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, 20 * seconds)
        size = (
            int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
            * resource.getpagesize()
        )
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
        if again or not self.swap(mutant.source):
            return self.anew(mutant.source)
        chosen.sort(key=lambda item: self.seconds[item.nodeid])
        return int(any(self.failed for _ in self.run(chosen)))

    def swap(self, source: str) -> bool:
        """Give the module's functions their changed code; False if that cannot be done in place."""
        new = codes(self.loader.source_to_code(source.encode(), str(self.path)))
        changed = {self.codes[key]: code for key, code in new if key in self.codes}
        for cache in self.caches:
            cache.cache_clear()
        try:
            for function in self.functions:
                function.__code__ = changed.get(function.__code__, function.__code__)
        except ValueError:  # it closes over other variables than before
            return False
        return True

    def anew(self, source: str) -> int:
        """Import all that is ours anew, the changed module among it, and run all tests."""
        for name in [*sys.modules]:
            if name.startswith(OURS) and not name.startswith(KEPT):
                del sys.modules[name]
        unchanged = SourceFileLoader.get_code

        def get_code(loader, name):
            if loader.path == str(self.path):
                return loader.source_to_code(source.encode(), loader.path)
            return unchanged(loader, name)

        SourceFileLoader.get_code = get_code
        return pytest.main([*self.arguments[:-1], f"{self.arguments[-1]}-anew", "--tb=no"])


def codes(code: CodeType, times=None):
    """Each function's code inside a code, by its name and how often the name came before."""
    times = defaultdict(int) if times is None else times
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            times[inner.co_qualname] += 1
            yield (inner.co_qualname, times[inner.co_qualname]), inner
            yield from codes(inner, times)


def tests_of(module: str, root: Path = PROJECT) -> list[Path]:
    """The test files of a module such as `companion/estimates`."""
    names = TESTS.get(module, module.split("/")[-1]).split()
    return [root / "tests" / f"test_{name}.py" for name in names]


def counted() -> list[str]:
    """The modules of the tables. Raises SystemExit for one that is not there or has no tests."""
    found = [
        f"{folder}/{file}"
        for folder, names in MODULES.items()
        for name in names.split()
        for file in sorted(f.stem for f in (PROJECT / folder).glob(f"{name}.py")) or [name]
        if file != "__init__"
    ]
    files = {m: [PROJECT / f"{m}.py", *tests_of(m)] for m in [*found, *TESTS]}
    if lost := [f"{m}: there is no {f}" for m in files for f in files[m] if not f.exists()]:
        raise SystemExit("\n".join([*lost, f"Mend the tables of {__file__}"]))
    return found


def try_out(module: str, share: float, folder: Path, root: Path = PROJECT) -> list[dict]:
    """What became of each mutant of a module, or of a share of them drawn by their text. Raises
    SystemExit if the tests fail without any change."""
    path, tests = root / f"{module}.py", tests_of(module, root)
    file, log = folder / f"{module.replace('/', '.')}.jsonl", folder / "session.log"
    same = "".join(
        f.read_text(encoding="utf-8")
        for f in [*tests, root / "tests" / "conftest.py"]
        if f.exists()
    )
    drawn = [
        m
        for m in mutants(path.read_text(encoding="utf-8"))
        if int(digest(m.change), 16) < share * 16**40
    ]
    keys = {digest(m.source + same): m for m in drawn}
    known = [json.loads(line) for line in file.open(encoding="utf-8")] if file.exists() else []
    done = {x["key"] for x in known}
    left = {m: key for key, m in keys.items() if key not in done}
    arguments = [*map(str, tests), "-qsp", "no:cacheprovider", "-p", "no:xdist", "--tb=short"]
    arguments += ["-x", "-m", "not smoke and not slow and not browser", "--rootdir", str(root)]
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning", "--basetemp", f"{folder}/tmp"]

    def note(m: Mutant, outcome: str, seconds: float):
        told = {"module": module, "line": m.line, "change": m.change, "outcome": outcome}
        with file.open("a", encoding="utf-8") as f:
            f.write(json.dumps(told | {"seconds": round(seconds, 2), "key": left[m]}) + "\n")
        bar.update()

    if left and (session := os.fork()) == 0:
        n, eyes = len(keys), os.fdopen(os.dup(2), "w", encoding="utf-8")
        bar = tqdm(total=n, initial=n - len(left), desc=module, unit="", file=eyes, mininterval=1)
        quiet = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        with bar:
            code = pytest.main(arguments, plugins=[Session(path, list(left), arguments, note)])
        os._exit(code)
    if left and os.waitpid(session, 0)[1]:
        raise SystemExit(f"{module}: its tests fail without a change, or were cut off; see {log}")
    return (
        [x for x in map(json.loads, file.open(encoding="utf-8")) if x["key"] in keys]
        if keys
        else []
    )


def digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def report(results: dict[str, list[dict]]) -> tuple[str, float]:
    """Scores and survivors for readers, and the score in total."""
    rows, survivors = [], []
    for module, tried in (results | {"in total": sum(results.values(), [])}).items():
        lived = [x for x in tried if x["outcome"] == "survived"]
        score = 100 * (1 - len(lived) / max(len(tried), 1))
        late = sum(x["outcome"] == "timeout" for x in tried)
        rows.append(
            f"{score:6.1f} %  {len(lived):4} of {len(tried):5} survive, {late:3} timeouts  {module}"
        )
        if module != "in total":
            survivors += [f"{module}.py:{x['line']}\n{x['change']}\n" for x in lived]
    return "\n".join([*survivors, *rows]), score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("modules", nargs="*", help="such as companion/estimates.py; all if none")
    parser.add_argument("--share", type=float, default=1, help="of the mutants, for a quick look")
    args, every = parser.parse_args(), counted()
    modules = [m.removesuffix(".py") for m in args.modules] or every
    if strange := set(modules) - set(every):
        raise SystemExit(f"{strange} are not counted; there are {', '.join(every)}")
    folder = PROJECT / "_build" / "mutants"
    folder.mkdir(parents=True, exist_ok=True)
    text, score = report({m: try_out(m, args.share, folder) for m in modules})
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    sys.exit(score < ENOUGH)


if __name__ == "__main__":
    main()
