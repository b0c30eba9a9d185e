"""Pages that repeat what the code and the benchmarks say: `python -m tests.helpers.docs` writes them."""

import ast
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import models
from adapters.cli import app
from engine.configuration import PLATFORM_KEYS
from engine.options import (
    AdapterOptions,
    EmbeddingOptions,
    EndpointOptions,
    GenerationOptions,
    LoadOptions,
    Options,
    VLLMOptions,
)
from engine.options.names import ALIASES

ROOT = Path(__file__).parents[2]
WIDTH, COLUMN = 110, 26

# What the tree shows, and what it says of paths without a docstring.
TOP = {
    "README.md": "What this is and how to use it.",
    "Makefile": "`make help` lists what it does.",
    "creation.py": "",
    "dataloop.json": "The app's manifest, written by `python creation.py --manifest`.",
    "models": "",
    "adapters": "",
    "engine": "",
    "examples": "The demonstration and what it needs.",
    "benchmarks": "",
    "tests": "The tests. tests/engine has the folders of engine/.",
    "docs": "These pages.",
}
ELSEWHERE = {
    "examples/items": "Prompt items in both formats.",
    "examples/tiny_talk": "The model that comes with the repository: its dialogues, training and weights.",
    "tests/helpers": "What tests share.",
}

SECTIONS: dict[str, type[Options]] = {
    "Adapter": AdapterOptions,
    "Server (`backend: endpoint`)": EndpointOptions,
    "vLLM (`backend: vllm`)": VLLMOptions,
    "Loading": LoadOptions,
    "Generation": GenerationOptions,
    "Embedding": EmbeddingOptions,
}
TYPES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "`true`, `false`",
    "array": "list",
    "object": "mapping",
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

# The figures that the README shows, in float32: what was done, and what it is compared with.
SPEED = {
    "generation.S.vs_loop": ("answer conversations", "one question at a time"),
    "generation.S.vs_generate": ("", "transformers' `generate` in batches"),
    "generation.S.vs_continuous_batching": ("", "transformers' continuous batching"),
    "scoring.fp32.vs_hflm": ("score given answers", "lm-evaluation-harness"),
    "embedding.fp32.vs_sentence_transformers": ("embed texts", "sentence-transformers"),
}

WEIGHTS = {
    "tiny_talk": "in this repository",
    "auto_causal_lm": "`model_name` in the configuration",
    "inference_endpoint": "at the server that the configuration names",
}


def configuration() -> str:
    """docs/configuration.md: every option of engine/options/ with its values, default and meaning."""
    tables = [_options(title, kind) for title, kind in SECTIONS.items()]
    aliases = ", ".join(f"`{alias}` for `{name}`" for alias, name in ALIASES.items())
    reserved = ", ".join(f"`{key}`" for key in sorted(PLATFORM_KEYS))
    return f"""# Configuration

Every option of a model, with its values and its default.

This page is generated from `engine/options/` by `python -m tests.helpers.docs`.

Options are set in the model's configuration on the platform, in a model file (`defaults`), by
`--set key=value` on the command line, or in Python as `models.load(name, {{...}})`. An unknown key is an
error that names the nearest known one. `null` counts as not set; an empty default means not set.

{textwrap.fill(f"Other names of the same options: {aliases}.", WIDTH)}

{"".join(tables)}## Keys of the platform

Dataloop keeps these keys in the same configuration. They are accepted, but are no options:

{textwrap.fill(f"{reserved}.", WIDTH)}
"""


def _options(title: str, kind: type[Options]) -> str:
    properties = kind.model_json_schema()["properties"]
    rows = "".join(
        f"| `{name}` | {_values(about)} | {_default(about.get('default'))} | {about['description']} |\n"
        for name, about in properties.items()
    )
    return f"## {title}\n\n| key | values | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _values(schema: dict[str, Any]) -> str:
    if kinds := schema.get("anyOf"):
        return " or ".join(_values(kind) for kind in kinds if kind.get("type") != "null")
    if "const" in schema:
        return _default(schema["const"])
    if choices := schema.get("enum"):
        return ", ".join(f"`{choice}`" for choice in choices)
    bounds = [f"{sign} {schema[key]:g}" for key, sign in BOUNDS.items() if key in schema]
    return " ".join([TYPES[schema["type"]], ", ".join(bounds)]).strip()


def _default(value: Any) -> str:
    if value in (None, (), []):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def documented() -> set[str]:
    """The models that docs/models.md lists."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `(\w[\w-]*)` \|", page, re.MULTILINE)) - {"module_name"}


def model_table(names: Iterable[str] | None = None) -> str:
    """docs/models.md: files of models/, by default all, with their weights and docstrings."""
    folder = ROOT / "models"
    rows = "".join(
        f"| `{name}` | {WEIGHTS.get(name) or _weights(name)} | {about(folder / f'{name}.py')} |\n"
        for name in sorted(models.names() if names is None else names)
    )
    return f"""# Models

Every model that has a file in `models/`.

This page is generated from these files by `python -m tests.helpers.docs`. `module_name` in a model's
configuration on the platform names the file.

| `module_name` | weights | what it is |
|---|---|---|
{rows}"""


def _weights(name: str) -> str:
    return getattr(models.find(name), "model_name", None) or "as its file says"


def tree() -> str:
    """The files of the package, each with the first line of its docstring, or of its page."""
    return "\n".join(line for name in TOP for line in _lines(ROOT / name, 0))


def _lines(path: Path, depth: int) -> Iterator[str]:
    name = "  " * depth + path.name + "/" * path.is_dir()
    first, *more = textwrap.wrap(about(path), WIDTH - COLUMN, break_on_hyphens=False) or [""]
    yield f"{name:<{COLUMN}}{first}"
    yield from (" " * COLUMN + line for line in more)
    if path.is_dir() and path.name != "models":
        for child in sorted(path.iterdir(), key=lambda child: (child.is_dir(), child.name)):
            if shown(child):
                yield from _lines(child, depth + 1)


def shown(path: Path) -> bool:
    """Whether the tree has a path: modules, pages, and folders that say what they hold."""
    if path.is_dir():
        return bool(about(path))
    return path.suffix in (".py", ".md") and not path.name.startswith(("__init__", "test_"))


def about(path: Path) -> str:
    """The first line of a module's docstring or the first sentence of a page; empty if there is none."""
    name = path.relative_to(ROOT).as_posix()
    if said := TOP.get(name) or ELSEWHERE.get(name):
        return said
    if path.suffix == ".md":
        paragraph = path.read_text(encoding="utf-8").split("\n\n")[1].replace("\n", " ")
        return re.split(r"(?<=[.;:]) ", paragraph)[0]
    module = path / "__init__.py" if path.is_dir() else path
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) if module.exists() else None
    return (docstring or "").partition("\n")[0]


def speed() -> str:
    """The README's table of measured figures, from benchmarks/results."""
    figures: dict[str, float] = {}
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        figures |= json.loads(path.read_text(encoding="utf-8"))["figures"]
    rows = "".join(f"| {what} | {other} | {figures[key]:.3g} |\n" for key, (what, other) in SPEED.items())
    return f"| work | compared with | times as fast |\n|---|---|---|\n{rows}".rstrip()


def command_help() -> str:
    """The help of each command of the command line."""
    texts = app.help_texts(WIDTH - 20)
    return "\n\n".join(f"```text\n{text.strip()}\n```" for text in texts.values())


def replaced(page: str, part: str, text: str) -> str:
    """A page of the repository with what stands between a part's two markers replaced."""
    start, end = f"<!-- {part}: written by python -m tests.helpers.docs -->", f"<!-- end of {part} -->"
    before, rest = (ROOT / page).read_text(encoding="utf-8").split(start)
    return f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"


# The tree quotes the other pages, so it is the last.
PAGES: dict[str, Callable[[], str]] = {
    "README.md": lambda: replaced("README.md", "speed", speed()),
    "docs/command_line.md": lambda: replaced("docs/command_line.md", "help", command_help()),
    "docs/configuration.md": configuration,
    "docs/models.md": model_table,
    "docs/architecture.md": lambda: replaced("docs/architecture.md", "tree", f"```text\n{tree()}\n```"),
}

if __name__ == "__main__":
    for file, page in PAGES.items():
        (ROOT / file).write_text(page(), encoding="utf-8")
