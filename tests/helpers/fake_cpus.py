"""CPUs that the fixture `fake_cpu` simulates, as its keyword arguments."""

from typing import Any

import torch

from engine.weights.kernels import HALF_DTYPES

FLOAT32 = [torch.float32]

FAKE_CPUS: dict[str, dict[str, Any]] = {
    "this one": {},
    "float32, fp16 storage": {"native": (), "onednn": FLOAT32, "fp16_storage": True},
    "float32": {"native": (), "onednn": FLOAT32, "fp16_storage": False},
    "float32, no libraries": {"native": (), "onednn": (), "fp16_storage": False},
    "bfloat16": {"native": [torch.bfloat16], "onednn": [torch.float32, torch.bfloat16]},
    "bfloat16, not prepacked": {"native": [torch.bfloat16], "onednn": FLOAT32},
    "every dtype, no libraries": {"native": HALF_DTYPES, "onednn": (), "fp16_storage": False},
}
