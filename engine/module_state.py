"""State that a model's modules keep between forward passes: the lock that guards it, and its reset."""

import threading
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import PreTrainedModel

# The attribute in which a module's original attention type is kept.
_FIRST = "_first_attention_type"

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locking = threading.Lock()


def model_lock(model: nn.Module) -> threading.RLock:
    """The lock to hold during a forward pass: one for a model and all its modules.

    A packed pass temporarily replaces the attention implementation, and some modules keep state, so that
    passes of several threads must not overlap.
    """
    with _locking:
        if model not in _locks:
            parts = list(model.modules())
            lock = next((_locks[part] for part in parts if part in _locks), None) or threading.RLock()
            _locks.update(dict.fromkeys(parts, lock))
        return _locks[model]


def reset_state(model: nn.Module) -> None:
    """Clears what modules keep of earlier sequences, so that no answer depends on another.

    Call it before each forward pass or `generate`. RecurrentGemma keeps its recurrent state in its modules,
    and would continue from it with a prompt of one token. BigBird switches to full attention at the first
    short sequence and never switches back.
    """
    for module in list(model.modules()):
        for name, value in vars(module).items():
            if name.endswith(("_state", "_states")) and isinstance(value, torch.Tensor):
                setattr(module, name, None)
        if isinstance(module, PreTrainedModel) and hasattr(module, "set_attention_type"):
            stateful: Any = module
            stateful.set_attention_type(vars(module).setdefault(_FIRST, stateful.attention_type))
