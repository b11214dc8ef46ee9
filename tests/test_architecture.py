"""The order of the packages: each may import those before it, and never one after it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hf_unlearn"
# What stands in one line does not know each other.
ORDER = [
    "ground", "models", "data methods", "evaluation", "publishing", "training lifecycle", "sharding", "jobs", "api cli"
]  # fmt: skip
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms.split()}


def name_of(path: Path) -> str:
    return ".".join(["hf_unlearn", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def read(folder: Path) -> dict[str, ast.Module]:
    return {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}


def imports(name: str, tree: ast.Module, modules: dict[str, ast.Module]) -> set[str]:
    """The modules of ours that one imports, anywhere in it."""
    package = (PACKAGE / "/".join(name.split(".")[1:])).is_dir()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = name.split(".")[: len(name.split(".")) + package - node.level] if node.level else []
            base = ".".join([*here, *([node.module] if node.module else [])])
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in modules else base for a in node.names}
    return (found & set(modules)) - {"hf_unlearn"}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else "ground"


def upward(modules: dict[str, ast.Module]) -> list[str]:
    """The imports that the order forbids."""
    return [
        f"{name} imports {other}"
        for name, tree in modules.items()
        if name != "hf_unlearn"  # the package's face names what users import
        for other in imports(name, tree, modules)
        if room(other) != room(name) and FLOOR[room(other)] >= FLOOR[room(name)]
    ]


MODULES = read(PACKAGE)


def test_no_import_goes_up_and_none_in_a_circle() -> None:
    assert upward(MODULES) == []
    tuple(TopologicalSorter({name: imports(name, tree, MODULES) for name, tree in MODULES.items()}).static_order())


def test_an_import_that_goes_up_is_seen() -> None:
    planted = {**MODULES, "hf_unlearn.data.format": ast.parse("def f():\n    from ..jobs import run\n")}
    assert upward(planted) == ["hf_unlearn.data.format imports hf_unlearn.jobs"]


def test_only_jobs_and_cli_print() -> None:
    for name, tree in MODULES.items():
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert room(name) in ("jobs", "cli") or not calls & {"print", "out.print", "Console"}, name


def test_rooms_files_and_functions_are_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 6 + 1  # and the package's face
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert len(list(folder.glob("*.py"))) <= 20 + 1, folder
    for name, tree in MODULES.items():
        assert max((node.end_lineno or 0 for node in tree.body), default=0) <= 500, name
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 80, f"{name}.{node.name}"
