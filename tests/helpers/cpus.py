"""Kinds of CPUs that the fixture `cpu` puts in the place of this one."""

from typing import Any

import torch

from engine.weights.kernels import HALF

FLOAT32 = [torch.float32]

CPUS: dict[str, dict[str, Any]] = {
    "this one": {},
    "float32, halves kept": {"multiplies": (), "lays_out": FLOAT32, "keeps_half": True},
    "float32": {"multiplies": (), "lays_out": FLOAT32, "keeps_half": False},
    "float32, no libraries": {"multiplies": (), "lays_out": (), "keeps_half": False},
    "bfloat16": {"multiplies": [torch.bfloat16], "lays_out": [torch.float32, torch.bfloat16]},
    "bfloat16, not laid out": {"multiplies": [torch.bfloat16], "lays_out": FLOAT32},
    "every dtype, no libraries": {"multiplies": HALF, "lays_out": (), "keeps_half": False},
}
