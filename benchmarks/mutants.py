"""Change the code in one place after the other and see whether the tests of its room fail.

    python benchmarks/mutants.py [evaluation population hashing] [--sample 150] [--minutes 60]

A mutant is one module with one change: a comparison turned or its bound moved, another operator,
another number, a condition that always or never holds, a statement or an argument left out, a name
in place of its opposite. It is killed when a test fails or takes five times as long. Asked are the
module's doctests and the files of its room's tests that import it, or a neighbour that does where
none does; of these the fast tests, without those that need a store. The first failure ends it.

Numbers outside functions are changed too: thresholds stand there, which mutmut leaves alone. And
each mutant is a fork of a process that has imported the libraries, which takes a second;
cosmic-ray starts a new one, which takes ten.

Outcomes are kept in ``--out``: a run that was stopped goes on, and ``--again`` asks new tests about
those that were alive. ``--sample`` takes as many of a room at random, by ``--seed``.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]

ROOMS = {
    "evaluation": (
        "evaluation",
        [
            *("metrics", "gate", "scores", "findings", "drift", "thresholds", "figures"),
            *("class_weights", "grouped", "reproduction"),
        ],
    ),
    "population": (
        "population",
        ["training", "losses", "backprop", "models", "selection", "calibration", "checkpoints"],
    ),
    "hashing": ("table/hashing.py", ["split", "data", "equal_rows"]),
}
"""Where a room's modules are, and the files of its tests."""

STORES = ("store", "empty_database", "finished_main")
"""Fixtures that take seconds in every process."""

LIBRARIES = ("hypothesis", "matplotlib.figure", "pytest", "kd_mlflow.pipeline")
"""What is imported before the first mutant, with all that these import."""

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitOr,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}

OPPOSITES = (
    "low high",
    "low value",
    "high value",
    "min max",
    "minimum maximum",
    "argmin argmax",
    "floor ceil",
    "any all",
    "left right",
    "first second",
    "one two",
    "before now",
    "train val",
    "val test",
    "ours theirs",
    "candidate production",
    "distilled baseline",
    "ensemble distilled",
    "positive negative",
    "precision recall",
)

EVERYWHERE = {"min", "max", "minimum", "maximum", "argmin", "argmax", "any", "all", "left", "right"}
"""Names that are known without being in a module: numpy's, torch's and Python's."""

Place = tuple[Any, Any]
"""An object and the name of its field, or a list and a position in it."""


Change = Callable[[ast.Module], None]
"""Changes a syntax tree in place."""


class Edit(NamedTuple):
    """One change of a syntax tree, which ``apply`` makes in place."""

    line: int
    words: str
    apply: Callable[[], None]


def edits(tree: ast.Module) -> list[Edit]:
    """Every change of a module, always in the same order."""
    found, known = [], {*re.findall(r"\w+", ast.unparse(tree)), *EVERYWHERE}
    for place, node in _places(tree):
        for new in _variants(node, known):
            words = f"{_shown(node)} -> {_shown(new)}"
            if isinstance(node, ast.Call) and isinstance(new, ast.Call):
                (left_out,) = {word.arg for word in node.keywords} - {w.arg for w in new.keywords}
                words = f"{_shown(node.func)}(...) without {left_out}"
            found.append(Edit(node.lineno, words, lambda p=place, n=new: _put(p, n)))
    return found


def changed(tree: ast.Module, *, number: int) -> None:
    """Make one of a module's edits."""
    edits(tree)[number].apply()


def _places(node: ast.AST) -> Iterator[tuple[Place, ast.AST]]:
    """All places below a node that decide what the code does: no types, no texts of errors."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "exc"):
            continue
        if isinstance(value, ast.AST):
            below: list[tuple[Place, ast.AST]] = [((node, field), value)]
        elif isinstance(value, list):
            below = [((value, i), each) for i, each in enumerate(value)]
        else:
            continue
        for place, child in below:
            if isinstance(child, ast.AST) and not _is_text(child):
                yield place, child
                yield from _places(child)


def _is_text(node: ast.AST) -> bool:
    """Docstrings, and keyword arguments that are sentences for people."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or (isinstance(node, ast.keyword) and node.arg == "reason")


def _variants(node: ast.AST, known: Set[str]) -> Iterator[ast.AST]:
    """What a node is changed into."""
    match node:
        case ast.Compare(ops=[operator]):
            for other in OPERATORS[type(operator)]:
                yield ast.Compare(node.left, [other()], node.comparators)
        case ast.BinOp(op=operator):
            for other in OPERATORS.get(type(operator), ()):
                yield ast.BinOp(node.left, other(), node.right)
        case ast.BoolOp(op=operator):
            for other in OPERATORS[type(operator)]:
                yield ast.BoolOp(other(), node.values)
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(value=bool() | int() | float()):
            yield from map(ast.Constant, _numbers(node.value))
        case ast.Constant(value=str()):
            yield from map(ast.Constant, _opposites(node.value, known))
        case ast.Name(ctx=ast.Load()):
            yield from (ast.Name(other, node.ctx) for other in _opposites(node.id, known))
        case ast.Attribute(ctx=ast.Load()):
            yield from (
                ast.Attribute(node.value, other, node.ctx) for other in _opposites(node.attr, known)
            )
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.If():
            for answer in (True, False):
                yield ast.If(ast.Constant(answer), node.body, node.orelse)
        case ast.Call() if not _makes_an_object(node.func):
            for i, keyword in enumerate(node.keywords):
                if keyword.arg:
                    others = [*node.keywords[:i], *node.keywords[i + 1 :]]
                    yield ast.Call(node.func, node.args, others)
        case ast.Expr() | ast.AugAssign() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()


def _makes_an_object(function: ast.expr) -> bool:
    """Whether a class is called, most of whose arguments cannot be left out."""
    return ast.unparse(function).rpartition(".")[-1][:1].isupper()


def _numbers(value: float) -> tuple[float, ...]:
    """Numbers beside one."""
    if isinstance(value, bool):
        return (not value,)
    if not value:
        return (1,)
    if isinstance(value, int) and value <= 10:
        return (value - 1, value + 1)
    return (value * 2, value // 2 if isinstance(value, int) else value / 2)


def _opposites(name: str, known: Set[str]) -> Iterator[str]:
    """Known names that have another part in place of one; of texts with spaces there are none."""
    parts = name.split("_")
    for pair in OPPOSITES:
        one, other = pair.split()
        for old, new in ((one, other), (other, one)):
            changed_name = "_".join(new if part == old else part for part in parts)
            if old in parts and changed_name in known:
                yield changed_name


def _put(place: Place, new: ast.AST) -> None:
    parent, where = place
    if isinstance(parent, list):
        parent[where] = new
    else:
        setattr(parent, where, new)


def _shown(node: ast.AST) -> str:
    """The code of a node, on one line and not too long."""
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= 90 else f"{text[:60]} ... {text[-25:]}"


class Storeless:
    """Leaves out tests that need a store."""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep the others."""
        items[:] = [item for item in items if not set(STORES) & set(item.fixturenames)]


def asked(path: Path, tests: Sequence[str], change: Change, seconds: int) -> tuple[bool, float]:
    """Run tests in a fork, where a module is changed; whether all pass, and CPU seconds taken."""
    child = os.fork()
    if child == 0:
        exit_code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
            signal.alarm(20 * seconds)
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            exit_code = _exit_code(path, tests, change)
        finally:
            os._exit(exit_code)
    _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status) == 0, used.ru_utime + used.ru_stime


def _exit_code(path: Path, tests: Sequence[str], change: Change) -> int:
    """What pytest says of a changed module, which is imported first: pytest would read its file."""
    import pytest

    tree = ast.parse(path.read_text(encoding="utf-8"))
    change(tree)
    package = import_module(".".join(path.parent.relative_to(ROOT).parts))
    module = ModuleType(f"{package.__name__}.{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    setattr(package, path.stem, module)
    exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), module.__dict__)
    options = ["-xqm", "not slow", "-pno:cacheprovider", "-pno:xdist", "--hypothesis-seed=0"]
    options += ["-W", "ignore:Module already imported"]
    return pytest.main([*options, *tests, str(path)], [Storeless()])


def cpu_limit(path: Path, tests: Sequence[str]) -> int:
    """Seconds that a mutant of a module may take; its tests must pass, and miss what it has."""
    passed, seconds = asked(path, tests, lambda tree: None, 600)
    if not passed:
        raise SystemExit(f"without any change the tests of {path.stem} fail")
    if asked(path, tests, lambda tree: tree.body.clear(), 600)[0]:
        raise SystemExit(f"the tests of {path.stem} do not notice that it is empty")
    return int(5 * seconds) + 10


def import_libraries() -> None:
    """Import all that tests need but the package itself: of it every mutant has its own."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for name in LIBRARIES:
        import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "kd_mlflow"]:
        del sys.modules[name]


def mutants(room: str) -> list[tuple[Path, int, Edit]]:
    """Every mutant of a room."""
    place = ROOT / "kd_mlflow" / ROOMS[room][0]
    paths = sorted(place.glob("*.py")) if place.is_dir() else [place]
    return [
        (path, i, edit)
        for path in paths
        for i, edit in enumerate(edits(ast.parse(path.read_text(encoding="utf-8"))))
    ]


def tests_of(path: Path, room: str) -> list[str]:
    """The files of a room's tests that import a module, or else a neighbour that imports it."""
    files = [ROOT / "tests" / f"test_{name}.py" for name in ROOMS[room][1]]
    own = _importers(path, files)
    if not own:
        neighbours = _importers(path, path.parent.glob("*.py"))
        own = [file for file in files if any(_importers(each, [file]) for each in neighbours)]
    return list(map(str, own))


def _importers(path: Path, files: Iterable[Path]) -> list[Path]:
    """Those of some files that import a module."""
    word = re.compile(rf"{path.parent.name}(\.{path.stem} import| import .*\b{path.stem}\b)")
    return [file for file in files if word.search(file.read_text(encoding="utf-8"))]


def room_of(text: str) -> str:
    """A room's name; choices of argparse refuse an empty list of them."""
    if text not in ROOMS:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(ROOMS)}")
    return text


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What is asked for, by the command line where no words are given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rooms", nargs="*", type=room_of, default=[*ROOMS], help=", ".join(ROOMS))
    parser.add_argument("--sample", type=int, help="mutants of a room; all where none are given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutants.jsonl")
    parser.add_argument("--again", action="store_true", help="ask about those alive once more")
    return parser.parse_args(words)


def main() -> None:
    """Ask about every mutant, print who is alive and the share of those killed."""
    given = options()
    import_libraries()
    end = time.monotonic() + 60 * given.minutes
    given.out.parent.mkdir(exist_ok=True)
    lines = given.out.read_text().splitlines() if given.out.exists() else []
    known = {tuple(key): killed for key, killed in map(json.loads, lines)}
    limits: dict[Path, int] = {}
    for room in given.rooms:
        every = mutants(room)
        some = random.Random(given.seed).sample(every, min(given.sample or len(every), len(every)))
        for path, i, edit in sorted(some, key=lambda each: each[:2]):
            key = (path.stem, i, edit.line, edit.words)
            if time.monotonic() > end or (key in known and (known[key] or not given.again)):
                continue
            tests = tests_of(path, room)
            if path not in limits and tests:
                limits[path] = cpu_limit(path, tests)
            change = partial(changed, number=i)
            known[key] = bool(tests) and not asked(path, tests, change, limits[path])[0]
            with given.out.open("a") as file:
                print(json.dumps([key, known[key]]), file=file)
        _report(room, [(p, known.get((p.stem, i, e.line, e.words)), e) for p, i, e in some])


def _report(room: str, some: Sequence[tuple[Path, bool | None, Edit]]) -> None:
    by_outcome = Counter(killed for _, killed, _ in some)
    asked_about = by_outcome[True] + by_outcome[False]
    for path, killed, edit in sorted(some, key=lambda each: (each[0], each[2].line)):
        if killed is False:
            print(f"alive: {path.relative_to(ROOT)}:{edit.line}  {edit.words}")
    print(
        f"{room}: {by_outcome[True]} of {asked_about} killed "
        f"({by_outcome[True] / max(asked_about, 1):.1%}), {by_outcome[None]} not asked about"
    )


if __name__ == "__main__":
    main()
