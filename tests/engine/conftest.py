"""What several tests of the engine share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine import kernels, weights
from engine.loading import load
from engine.options import LoadOptions
from tests.engine import model_folders


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders of every kind that there is on the hub, by name."""
    return model_folders.save(tmp_path_factory.mktemp("models"))


@pytest.fixture
def load_folder(folders: dict[str, Path]) -> Callable:
    """Loads one of `folders` by its name, on the CPU unless the options say otherwise."""
    return lambda name="llama", **options: load(
        LoadOptions(**{"model_name": str(folders[name]), "device": "cpu"} | options)
    )


@pytest.fixture
def no_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that computes float32 alone."""
    for module in (kernels, weights):
        monkeypatch.setattr(module, "multiplies", lambda dtype: dtype == torch.float32)
