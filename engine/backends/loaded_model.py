"""What backends with a loaded model on this machine share: its weights, tokenizer and process."""

import os
from pathlib import Path

from engine.contract import Engine
from engine.errors import Unsupported
from engine.loading import Loaded
from engine.memory import MemoryUse, peak_memory
from engine.module_state import model_lock
from engine.text import encodable
from engine.weights.prepacking import prepack, restore


class LoadedModel(Engine):
    """An engine with a loaded model, whose weights it prepacks."""

    def __init__(self, loaded: Loaded) -> None:
        """Prepacks the model's weights.

        Raises:
            ConfigurationError: a model that cannot be run in the 8 bits that its options ask for.
        """
        self.loaded = loaded
        self.tokenizer = loaded.tokenizer
        weights = {id(weight): weight for weight in loaded.model.parameters()}.values()
        self._weights = sum(weight.nbytes for weight in weights)
        self._devices = sorted({weight.device for weight in weights if weight.device.type != "meta"}, key=str)
        self._kv_cache = 0
        self._int8 = loaded.options is not None and loaded.options.quantize == "int8"
        self._dtypes = prepack(loaded.model, self._int8)
        self._process = os.getpid()

    def __repr__(self) -> str:
        """Says which model it is, and where it runs."""
        model = self.loaded.model
        name = f" {self.loaded.options.model_name}" if self.loaded.options else ""
        return f"{type(model).__name__}{name}, {str(model.dtype).removeprefix('torch.')}, on {model.device}"

    @property
    def memory(self) -> MemoryUse:
        """What the model has taken so far."""
        peak = {str(device): peak_memory(device) for device in self._devices}
        return MemoryUse(self._weights, self._kv_cache, peak)

    @property
    def context_length(self) -> int | None:
        """The most tokens of a sequence; None where it is unbounded."""
        return self.loaded.context_length

    def count_tokens(self, text: str) -> int:
        """The number of tokens of a text, without special tokens."""
        return len(self.tokenizer(encodable(text), add_special_tokens=False, verbose=False)["input_ids"])

    def save(self, folder: str | Path) -> None:
        """Writes model and tokenizer to a folder that `engine.loading.load` takes.

        In a bfloat16 model that is computed in float32, weights below 8e-6 are rounded to multiples of 6e-8.

        Raises:
            Unsupported: a model that was loaded before a fork, or with `quantize`.
        """
        self.check_process()
        if self._int8:
            raise Unsupported(
                "quantize: int8 has rounded the weights, and the original ones are not kept: load the model "
                "without quantize to save it"
            )
        with model_lock(self.loaded.model):
            restore(self.loaded.model, self._dtypes)
            try:
                self.loaded.model.save_pretrained(folder)
                self.tokenizer.save_pretrained(folder)
            finally:
                prepack(self.loaded.model)

    def check_process(self) -> None:
        """Checks that this process can run the model.

        Raises:
            Unsupported: the model was loaded before a fork.
        """
        # A fork does not copy torch's threads: the first computation would hang.
        if os.getpid() != self._process:
            raise Unsupported(
                f"the model was loaded in process {self._process}, and a forked one cannot run it: load it "
                'in the process that answers, which multiprocessing has to start by "spawn"'
            )
