"""What every test has: no hub, no home, and small models made once."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything imports the hub library, which reads them then.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="hf-home-")
# The workers of a run and the services they start share the cores: more threads only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

pytest_plugins = ["tests.gateway.fixtures"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and its tokenizer."""
    from tests import tiny

    return tiny.save(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def in_hub_cache() -> Callable[[str, Path], None]:
    """Puts a folder where the hub library keeps a downloaded repository, so that its hub id loads offline."""

    def put(hub_id: str, folder: Path) -> None:
        repository = Path(os.environ["HF_HOME"]) / "hub" / f"models--{hub_id.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / ("0" * 40), dirs_exist_ok=True)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text("0" * 40)

    return put


def pytest_unconfigure() -> None:
    """Removes the hub library's folder."""
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture
def questions() -> dict:
    """A prompt item in the questions format: two conversations, the first with two turns."""
    return {
        "shebang": "dataloop",
        "metadata": {"dltype": "prompt"},
        "prompts": {
            "first": {
                "1": {"mimetype": "application/text", "value": "Hello"},
                "2": {"mimetype": "application/text", "value": "And again"},
            },
            "second": {"1": {"mimetype": "application/text", "value": "Grüß Gott"}},
        },
    }


@pytest.fixture
def messages() -> dict:
    """A prompt item in the messages format: one conversation of two user turns."""
    text = "application/text"
    return {
        "shebang": "dataloop",
        "metadata": {"dltype": "prompt"},
        "prompts": {
            "1": [{"mimetype": text, "value": "Hello"}, {"mimetype": "metadata", "value": {"role": "user"}}],
            "2": [{"mimetype": text, "value": "And again"}],
        },
    }
