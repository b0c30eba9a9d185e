"""What some modules keep from one sequence to the next: cleared, so that no answer depends on another."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

# Where a module's first kind of attention is noted.
_FIRST = "_first_attention_type"


def forget(model: nn.Module) -> None:
    """Makes a model as if it had read nothing: called before each pass or `generate`.

    RecurrentGemma keeps its state in its modules, and would go on from it with a prompt of one token. BigBird
    changes to full attention with the first short sequence, and stays there for all later ones.
    """
    for module in list(model.modules()):
        for name, value in vars(module).items():
            if name.endswith(("_state", "_states")) and isinstance(value, torch.Tensor):
                setattr(module, name, None)
        if isinstance(module, PreTrainedModel) and hasattr(module, "set_attention_type"):
            kind: Any = module
            kind.set_attention_type(vars(module).setdefault(_FIRST, kind.attention_type))
