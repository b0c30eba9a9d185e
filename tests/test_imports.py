"""The three rings: imports go inward only, and heavy packages stay in their files."""

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.docs import documented

ROOT = Path(__file__).parents[1]
# Not a user's own model files, which may import anything.
SHIPPED = [ROOT / "models" / f"{name}.py" for name in ("__init__", *sorted(documented()))]
FILES = SHIPPED + [path for folder in ("adapters", "engine") for path in (ROOT / folder).rglob("*.py")]
RINGS = {
    "engine": {"engine"},
    "adapters": {"adapters", "engine"},
    "models": {"adapters.evaluation", "adapters.hugging", "adapters.registry", "engine"},
}
COMMAND = "python -m adapters predict examples/items/capitals.json"
DTLPY = {
    "adapters/dataloop.py",
    "adapters/dataloop_server.py",
    "adapters/items/annotations.py",
    "adapters/platform/login.py",
    "adapters/platform/remote.py",
}


def imported(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules |= {node.module or ""}
    return modules


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_inward_only(path: Path):
    name = path.relative_to(ROOT).as_posix()
    allowed = RINGS[name.split("/")[0]]
    ours = {module for module in imported(path) if module.split(".")[0] in RINGS}
    outward = {
        module
        for module in ours
        if not any(module == ring or module.startswith(f"{ring}.") for ring in allowed)
    }
    assert not outward, f"{name} imports {outward}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dtlpy_is_imported_where_the_platform_is(path: Path):
    name = path.relative_to(ROOT).as_posix()
    assert name in DTLPY or "dtlpy" not in {module.split(".")[0] for module in imported(path)}


def test_gradio_is_imported_in_one_file():
    importing = {path for path in FILES if "gradio" in {name.split(".")[0] for name in imported(path)}}
    assert importing == {ROOT / "adapters" / "page" / "app.py"}


@pytest.mark.parametrize("arguments", [["models"], ["--help"], ["predict", "--help"], ["evaluate", "--help"]])
def test_listing_and_help_import_nothing_heavy(arguments: list[str]):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['adapters', *{arguments!r}]\n"
        "try: runpy.run_module('adapters', run_name='__main__')\n"
        "except SystemExit as done: assert not done.code\n"
        "heavy = {'torch', 'transformers', 'dtlpy', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_the_command_line_answers_without_dtlpy(tmp_path: Path):
    # The engine and all it needs are imported on the way; the README has this command.
    words = shlex.split(COMMAND.removeprefix("python -m "))
    code = (
        "import sys, runpy; sys.modules['dtlpy'] = None\n"
        f"sys.argv = {words!r}\n"
        "runpy.run_module('adapters', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Tokyo" in done.stdout
    assert list(tmp_path.iterdir()) == [], "the user's home is left alone"
