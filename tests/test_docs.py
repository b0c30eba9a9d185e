"""The pages of docs/ are true: generated parts are up to date, links resolve, named tests and files exist."""

import re
from pathlib import Path

import pytest

import models
from engine.configuration import KINDS
from tests.helpers import docs

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
TESTS = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("name", sorted(docs.PAGES.keys() - {"docs/models.md"}))
def test_a_generated_page_is_up_to_date(name: str):
    assert PAGES[name] == docs.PAGES[name](), "run: make docs"


def test_the_models_that_are_documented_are_so_as_their_files_say():
    listed = docs.documented() & {*models.names()}
    assert PAGES["docs/models.md"] == docs.model_table(listed), "run: make docs"


def test_the_configuration_has_every_kind_of_option():
    assert tuple(docs.SECTIONS.values()) == KINDS


def test_the_tree_has_every_file_of_the_package():
    tree = docs.tree()
    for folder in ("engine", "adapters", "benchmarks", "tests/gateway", "tests/helpers", "docs"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".md") and not path.name.startswith(("__init__", "test_")):
                assert re.search(rf"^\s*{re.escape(path.name)}\s+\S", tree, re.MULTILINE), path


@pytest.mark.parametrize("name", PAGES)
def test_links_resolve(name: str):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        page = (ROOT / name).parent / file if file else ROOT / name
        assert page.exists(), target
        if anchor:
            assert anchor in anchors(page.read_text(encoding="utf-8")), target


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_features_are_run_by_the_tests_they_name():
    table = PAGES["docs/features.md"]
    links = re.findall(r"\[(test_\w+)\]\(\.\./(tests/\S+\.py)\)", table)
    assert len(links) == len(re.findall(r"^\| ", table, re.MULTILINE)) - 1
    for name, file in links:
        assert f"def {name}(" in TESTS[ROOT / file], (name, file)


@pytest.mark.parametrize("name", PAGES)
def test_a_test_that_a_page_names_exists(name: str):
    for file, test in re.findall(r"`(?:(tests/\S+\.py)::)?(test_\w+)`", PAGES[name]):
        texts = [TESTS[ROOT / file]] if file else TESTS.values()
        assert any(f"def {test}(" in text for text in texts), (file, test)


@pytest.mark.parametrize("name", PAGES)
def test_a_file_that_a_page_names_exists(name: str):
    for file in re.findall(r"`((?:adapters|engine|examples|models|tests|docs)/[\w/.-]*)`", PAGES[name]):
        assert (ROOT / file).exists(), file


def test_the_picture_names_folders_that_exist():
    picture = (ROOT / "docs" / "overview.svg").read_text(encoding="utf-8")
    for folder in re.findall(r">((?:adapters|engine)/\w+)<", picture):
        assert (ROOT / folder).is_dir(), folder
