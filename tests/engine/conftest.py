"""Fixtures of the engine's tests: model folders, loading them, simulated CPUs."""

from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import torch

from engine.loading import load
from engine.options import LoadOptions
from engine.weights import cpu, kernels
from tests.helpers import model_folders


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders, complete and broken ones, by name."""
    return model_folders.save(tmp_path_factory.mktemp("models"))


@pytest.fixture
def load_folder(folders: dict[str, Path]) -> Callable:
    """Loads one of `folders` by its name, on the CPU unless the options say otherwise."""
    return lambda name="llama", **options: load(
        LoadOptions(**{"model_name": str(folders[name]), "device": "cpu"} | options)
    )


@pytest.fixture
def fake_cpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Simulates another CPU; skips the test where this CPU cannot do what the other one can.

    What is not given is this CPU's own. Arguments of the returned function:
        native: half-precision dtypes that it computes in.
        onednn: dtypes that oneDNN supports.
        fp16_storage: whether float16 weights are multiplied in float32.
    """

    def simulate(
        native: Collection[torch.dtype] | None = None,
        onednn: Collection[torch.dtype] | None = None,
        fp16_storage: bool | None = None,
    ) -> None:
        missing = [str(dtype) for dtype in onednn or () if not cpu.onednn_supports(dtype)]
        if missing:
            pytest.skip(f"oneDNN does not support {missing[0]} on this CPU")
        inexact = [str(dtype) for dtype in native or () if not cpu.is_accurate(kernels.TorchKernel, dtype)]
        if inexact:
            pytest.skip(f"torch accumulates {inexact[0]} in {inexact[0]} on this CPU")
        if fp16_storage and not cpu.supports_fp16_storage():
            pytest.skip("FBGEMM multiplies no float16 weights on this CPU")
        if native is not None:
            monkeypatch.setattr(
                cpu, "computes_natively", lambda dtype: dtype not in kernels.HALF_DTYPES or dtype in native
            )
        if onednn is not None:
            monkeypatch.setattr(cpu, "onednn_supports", lambda dtype: dtype in onednn)
        if fp16_storage is not None:
            monkeypatch.setattr(cpu, "supports_fp16_storage", lambda: fp16_storage)

    return simulate


@pytest.fixture
def float32_cpu(fake_cpu: Callable[..., None]) -> None:
    """A CPU that computes natively in float32 only."""
    fake_cpu(native=())
