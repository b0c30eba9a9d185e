"""What several tests of the engine share."""

from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import torch

from engine.loading import load
from engine.options import LoadOptions
from engine.weights import cpu as machine
from engine.weights import kernels
from tests.helpers import model_folders


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
def cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts another CPU in the place of this one; skips what this one cannot do.

    `multiplies`: half-precision dtypes that are multiplied as they are; `lays_out`: dtypes that oneDNN lays
    out; `keeps_half`: whether weights in float16 are multiplied in float32. The rest is this CPU's own.
    """

    def put(
        multiplies: Collection[torch.dtype] | None = None,
        lays_out: Collection[torch.dtype] | None = None,
        keeps_half: bool | None = None,
    ) -> None:
        missing = [str(dtype) for dtype in lays_out or () if not machine.lays_out(dtype)]
        if missing:
            pytest.skip(f"oneDNN lays out no {missing[0]} on this CPU")
        inexact = [str(dtype) for dtype in multiplies or () if not machine.is_right(kernels.Dense, dtype)]
        if inexact:
            pytest.skip(f"torch sums {inexact[0]} in itself on this CPU")
        if keeps_half and not machine.keeps_half():
            pytest.skip("FBGEMM multiplies no float16 weights on this CPU")
        if multiplies is not None:
            monkeypatch.setattr(
                machine, "multiplies", lambda dtype: dtype not in kernels.HALF or dtype in multiplies
            )
        if lays_out is not None:
            monkeypatch.setattr(machine, "lays_out", lambda dtype: dtype in lays_out)
        if keeps_half is not None:
            monkeypatch.setattr(machine, "keeps_half", lambda: keeps_half)

    return put


@pytest.fixture
def no_instructions(cpu: Callable[..., None]) -> None:
    """A CPU that computes float32 alone."""
    cpu(multiplies=())
