"""Rules that a machine can hold: documentation, size, layers, security, start-up cost."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "lsqctl").rglob("*.py"))
SOURCES = {path: path.read_text() for path in MODULES}
MAX_FUNCTION, MAX_FILE = 40, 400


class _Trees(dict[Path, ast.Module]):
    """The modules' syntax, parsed by the process that runs these tests and by no other."""

    def __missing__(self, path: Path) -> ast.Module:
        self[path] = ast.parse(SOURCES[path])
        return self[path]


TREES = _Trees()


def offences(of: Callable[[Path], object]) -> dict[str, object]:
    """Return what a rule finds in each module in which it finds anything."""
    found = {name_of(path): of(path) for path in MODULES}
    return {name: bad for name, bad in found.items() if bad}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def length(function: ast.FunctionDef) -> int:
    """Count the lines from ``def`` to the end, without those of the docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def test_every_module_says_what_it_is_for():
    promises = {path: ast.get_docstring(TREES[path]) or "nothing" for path in MODULES}
    first_lines = {path: text.splitlines()[0] for path, text in promises.items()}
    assert not {path: line for path, line in first_lines.items() if not line.endswith((".", ":"))}


def test_functions_and_files_stay_short():
    assert offences(lambda path: SOURCES[path].count("\n") > MAX_FILE) == {}
    assert offences(long_functions) == {}


def long_functions(path: Path) -> list[str]:
    """Return those that are too long; a command's parameters are its help page."""
    long = [one.name for one in functions(TREES[path]) if length(one) > MAX_FUNCTION]
    return [] if path.parent.name == "cli" else long


def test_most_functions_are_small():
    lengths = [length(one) for path in MODULES for one in functions(TREES[path])]
    assert statistics.median(lengths) <= 8
    assert sum(one > 30 for one in lengths) / len(lengths) < 0.02


# Here a dataset, a network, a format, a tracker or a scheduler is a file, and a new one a new file.
ONE_FILE_EACH = (
    "lsqctl/datasets",
    "lsqctl/models",
    "lsqctl/leaderboard/formats",
    "lsqctl/cluster/schedulers",
    "lsqctl/trackers",
    "lsqctl/launchers",
    "lsqctl/deploy/forms",
)
MAX_MODULES, MAX_ANY = 263, 29
SMALL, REASON = 60, "Apart because"


def counted_modules() -> list[Path]:
    return [
        path
        for path in MODULES
        if path.name != "__init__.py" and not name_of(path).startswith(ONE_FILE_EACH)
    ]


def test_there_are_not_more_modules_than_one_can_learn():
    assert len(counted_modules()) <= MAX_MODULES


def imported_modules(tree: ast.AST) -> set[str]:
    """Every module that is imported, those inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{one.name}" for one in node.names)}
        elif isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
    return names


def test_a_small_module_that_only_one_other_imports_says_why_it_is_apart():
    importers = {path: imported_modules(TREES[path]) for path in MODULES}
    for path in counted_modules():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        count = sum(module in names for names in importers.values())
        if count == 1 and SOURCES[path].count("\n") < SMALL:
            assert REASON in (ast.get_docstring(TREES[path]) or ""), name_of(path)


def test_any_is_written_only_where_no_type_can_be_told():
    """In annotations and in the aliases that annotations use, quoted ones included."""
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(TREES[path])
        if (isinstance(node, ast.Name) and node.id == "Any")
        or (isinstance(node, ast.Constant) and re.search(r"\[.*\bAny\b.*\]$", str(node.value)))
    ]
    assert len(found) <= MAX_ANY, found


def test_no_call_hides_its_positional_arguments():
    def hidden(path: Path) -> list[int]:
        return [
            argument.lineno
            for node in ast.walk(TREES[path])
            if isinstance(node, ast.Call)
            for argument in node.args
            if isinstance(argument, ast.Starred)
            and isinstance(argument.value, ast.Tuple | ast.List)
        ]

    assert offences(hidden) == {}


def test_no_module_is_a_drawer_for_everything():
    assert not {"utils", "util", "helpers", "common", "misc"} & {path.stem for path in MODULES}


def test_no_module_bears_the_name_of_something_its_package_exports():
    """`from package import name` must not depend on which of the two was imported last."""
    for path in MODULES:
        if path.name == "__init__.py":
            names = {alias.name for node in ast.walk(TREES[path]) for alias in imported(node)}
            assert not names & {one.stem for one in path.parent.glob("*.py")}, path


def imported(node: ast.AST) -> list[ast.alias]:
    return node.names if isinstance(node, ast.ImportFrom) else []


def test_only_settings_reads_the_environment():
    def reads(path: Path) -> list[str]:
        return re.findall("os.environ|getenv", SOURCES[path])

    assert offences(reads).keys() == {"lsqctl/settings.py"}


def test_three_places_alone_catch_everything():
    """An attempt, the code of a plugin, and qonnx, which raises Exception itself."""
    catching = [name_of(p) for p in MODULES if re.search(r"except \(?Exception", SOURCES[p])]
    assert catching == [
        "lsqctl/deploy/forms/qonnx.py",
        "lsqctl/discovery.py",
        "lsqctl/worker/execute.py",
    ]


def test_nothing_unpickles_or_runs_what_others_wrote():
    forbidden = re.compile(
        "weights_only=False|pickle.load|allow_pickle=True|joblib|add_safe_globals|shell=True"
        "|os.system"
    )

    def calls(path: Path) -> set[str]:
        nodes = [node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)]
        return {getattr(node.func, "id", "") for node in nodes} & {"eval", "exec", "__import__"}

    assert offences(lambda path: forbidden.findall(SOURCES[path])) == {}
    assert offences(calls) == {}


def test_torch_load_always_says_weights_only():
    def silent(path: Path) -> list[int]:
        return [
            node.lineno
            for node in ast.walk(TREES[path])
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) == "torch.load"
            and all(one.arg != "weights_only" for one in node.keywords)
        ]

    assert offences(silent) == {}


def test_nothing_is_left_unfinished():
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    assert not [name_of(path) for path in MODULES if unfinished.search(SOURCES[path])]


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        (["--help"], {"torch", "pandas", "sqlalchemy", "pydantic", "numpy", "yaml"}),
        (["runs", "ls"], {"torch", "pandas", "alembic", "numpy", "yaml"}),
        (["recipe", "ls"], {"torch", "pandas", "sqlalchemy", "numpy"}),
        (["submit", "digits/resnet8-lsq"], {"torch", "pandas"}),
        (["leaderboard"], {"torch", "torchvision", "scipy"}),
        (["bugreport", "--run", "@last"], {"torch", "torchvision", "pandas", "numpy"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_nothing_heavy(command, unwanted, cli):
    cli("submit", "digits/resnet8-fp32")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lsqctl", *command],
        cwd=cli.folder,
        env=cli.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & unwanted


def test_the_layers_hold():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_constraints_are_exact_and_name_no_host():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+", line) for line in pins)
    names = {re.split(r"==", line)[0].lower().replace("_", "-") for line in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    plain = {re.split(r"[\[>=]", one)[0].lower() for one in wanted}
    assert plain <= names


def test_what_a_module_does_as_a_program_stands_last():
    """Started by ``python -m``, what is defined below it would not be there yet."""

    def early(path: Path) -> list[int]:
        return [
            node.lineno
            for node in TREES[path].body[:-1]
            if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        ]

    assert offences(early) == {}
