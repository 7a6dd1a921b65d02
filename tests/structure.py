"""Measures of how the code hangs together, from its text alone; `test_structure.py` holds them.

python -m tests.structure                     files, lines, circles, imports that go up
python -m tests.structure journey TABLE.csv   files that `covjax compare TABLE.csv` enters, and in how many stays
"""

import ast
import builtins
import dis
import inspect
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parents[1]
TREES = ("covjax", "eval", "train")
IMPLICIT = ("__annotations__", "__file__", "__path__")  # names that Python sets in a module

# A module may import from its own floor and from those before it. The longest name decides.
FLOORS = (
    ("covjax.errors",),
    ("covjax.inputs", "covjax.options", "covjax.notes", "covjax.extras", "covjax.modelfiles", "covjax.jobs"),
    (
        *("covjax.tokens", "covjax.moments", "covjax.projected", "covjax.packed", "covjax.vectorize", "covjax.sketch"),
        *("covjax.spectral", "covjax.spectral_products", "covjax.shrinkage", "covjax.gram", "covjax.standardise"),
        *("covjax.controls", "covjax.sharding", "covjax.frechet", "covjax.log_mel", "covjax.collapse"),
    ),
    ("covjax.metrics", "covjax.data", "covjax.recipes"),
    ("covjax.encoders", "covjax.autoencoders", "covjax.sources"),
    ("covjax.pooling", "covjax.activations", "covjax.probes"),
    ("covjax.training", "covjax.extraction"),
    ("covjax.embedding",),
    ("covjax.embedder",),
    ("covjax.comparison", "covjax.tasks.configs"),
    ("covjax.tasks", "covjax.explanation", "covjax.sweeps", "covjax.dashboards"),
    (
        "covjax",
        "covjax.command",
        "covjax.autoencoder_command",
        "covjax.embedding_command",
        "covjax.info",
        "covjax.__main__",
    ),
    ("eval", "train"),
)


def modules() -> dict[str, Path]:
    """Every module of the library and of the runs, with its file."""
    files = sorted(file for tree in TREES for file in (ROOT / tree).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imports(files: dict[str, Path], inside_functions: bool = False) -> dict[str, set[str]]:
    """Which of the modules each imports when it is imported itself, or also later, inside its functions."""
    return {
        name: {module for module in _imported(ast.parse(file.read_text()), files, inside_functions)} - {name}
        for name, file in files.items()
    }


def _imported(tree: ast.AST, files: dict[str, Path], inside_functions: bool) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield from (name for name in (inner if inner in files else node.module,) if name in files)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imported(node, files, inside_functions)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other: the strongly connected components of more than one (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in graph:
        if name not in number:
            visit(name)
    return groups


def floor(module: str) -> int:
    """Number of the floor that a module stands on, by the longest of the names in `FLOORS`."""
    floors = {name: number for number, names in enumerate(FLOORS) for name in names}
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    # `covjax` is the door, the last floor; a module of the library has to be named by more than that.
    known = [name for name in names if name in floors and (name != "covjax" or module == "covjax")]
    if not known:
        raise KeyError(f"{module}: on no floor of tests/structure.py")
    return floors[known[0]]


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports from a floor of one on a floor above it."""
    return sorted(
        f"{name} → {other}" for name, others in graph.items() for other in others if floor(other) > floor(name)
    )


def lengths(files: dict[str, Path]) -> dict[str, int]:
    """Lines of every module."""
    return {name: len(file.read_text().splitlines()) for name, file in files.items()}


def journey(argv: Sequence[str]) -> tuple[list[str], int]:
    """Files of `covjax compare` in the order in which their functions are first called, and the lines of these.

    What is called by an import does not count.

    A reader who follows the run reads each function once, with the comprehensions and lambdas that stand in it: files
    that stand next to each other in this list are one stay.
    """
    from covjax.comparison import command, compare  # noqa: F401  (imported here, and not while calls are followed)

    entered: list[str] = []
    known: set[CodeType] = set()
    folder = str(ROOT / "covjax")

    def follow(frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        # <listcomp>, <genexpr>, <lambda>: a part of a function (and <module>: an import)
        is_function = code.co_filename.startswith(folder) and not code.co_name.startswith("<")
        if event == "call" and is_function and code not in known:
            known.add(code)
            entered.append(str(Path(code.co_filename).relative_to(ROOT)))

    sys.setprofile(follow)
    try:
        command.main(argv)
    finally:
        sys.setprofile(None)
    lines = set()
    for code in known:
        source, first = inspect.getsourcelines(code)
        lines.update((code.co_filename, first + i) for i in range(len(source)))
    return entered, len(lines)


def undefined(source: str) -> set[str]:
    """Names that code reads and no line of its file sets; the linters cannot tell them from shapes in annotations."""
    codes, read, known = [compile(source, "", "exec")], set(), {*dir(builtins), *IMPLICIT}
    for code in codes:
        codes += [each for each in code.co_consts if isinstance(each, CodeType)]
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                read.add(step.argval)
            elif step.opname in ("STORE_GLOBAL", "STORE_NAME"):
                known.add(step.argval)
    return read - known


def stays(entered: Sequence[str]) -> int:
    """Runs of one file in a journey."""
    return sum(1 for i, file in enumerate(entered) if i == 0 or entered[i - 1] != file)


def main(argv: Sequence[str]) -> None:
    """Print the measures."""
    if argv[:1] == ["journey"]:
        with tempfile.TemporaryDirectory() as folder:
            entered, lines = journey([*argv[1:], "--quiet", "--output", f"{folder}/out"])
        count = f"{len(set(entered))} files, {stays(entered)} stays, {len(entered)} functions of {lines:,} lines"
        print(f"journey: {count}")
        for file in dict.fromkeys(entered):
            print(f"    {file}: {entered.count(file)} functions")
        return
    files = modules()
    graph, later = imports(files), imports(files, inside_functions=True)
    lines = lengths(files)
    longest = max(lines, key=lambda name: lines[name])
    print(f"files: {len(files)}, {sum(lines.values()):,} lines; longest: {longest}, {lines[longest]} lines")
    print(f"import circles: {circles(graph)}")
    print(f"imports that go up: {upward(graph)}")
    print(f"  inside functions too: {sorted(set(upward(later)) - set(upward(graph)))}")


if __name__ == "__main__":
    main(sys.argv[1:])
