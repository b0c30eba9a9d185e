"""What transformers itself makes of a model, one text at a time: the other side of a comparison."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

# How far a logit may be from the reference's: sums are taken in another order.
NEAR = 1e-3


class Reference:
    """A model that nobody has laid out anew."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        settings = model.generation_config
        start = settings.decoder_start_token_id
        self._start = settings.bos_token_id if start is None else start
        self._generated: dict[tuple[int, ...], tuple[list[int], torch.Tensor]] = {}

    def logits(self, prompt: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """(tokens, vocabulary) what the model gives before each token, from one pass over all of them."""
        if self._model.config.is_encoder_decoder:
            read = torch.tensor([[self._start, *tokens[:-1]]])
            return _pass(self._model, prompt, decoder_input_ids=read).logits[0]
        return _pass(self._model, [*prompt, *tokens[:-1]]).logits[0, len(prompt) - 1 :]

    def generated(self, prompt: tuple[int, ...], count: int) -> tuple[list[int], torch.Tensor]:
        """So many tokens by `generate`, and the logits (tokens, vocabulary) that it took them by."""
        if prompt not in self._generated:
            ids = torch.tensor([prompt])
            # A model may keep what it has read (RecurrentGemma), so that no other run begins where it began.
            output = copy.deepcopy(self._model).generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
            self._generated[prompt] = output.sequences[0, -count:].tolist(), torch.cat(output.logits)
        return self._generated[prompt]

    def states(self, ids: Sequence[int]) -> torch.Tensor:
        """(tokens, dim) the last hidden states: of a decoder, or of the encoder where there is one."""
        whole = self._model
        base = whole.get_encoder() if whole.config.is_encoder_decoder else whole.base_model
        return _pass(whole.model if base is whole else base, ids).last_hidden_state[0]

    def fault(self, prompt: tuple[int, ...], tokens: Sequence[int], logprobs: Sequence[float]) -> str:
        """What is wrong with a greedy answer; "" where nothing is.

        Its tokens are the likeliest, by one pass over all of them or by `generate`: these differ where a
        model's code for going on from a cache gives other logits. Of two that are as likely either will do.
        """
        by_pass = _fault(self.logits(prompt, tokens), tokens, logprobs)
        if not by_pass:
            return ""
        expected, logits = self.generated(prompt, len(tokens))
        by_generate = _fault(logits, tokens, logprobs)
        return by_generate and f"by one pass {by_pass}; by generate {by_generate}, which gives {expected}"


@torch.inference_mode()
def _pass(model: PreTrainedModel, ids: Sequence[int], **inputs: torch.Tensor) -> Any:
    if any(hasattr(module, "set_attention_type") for module in model.modules()):
        model = copy.deepcopy(model)  # BigBird changes for good with the first short text.
    caches = "use_cache" in inspect.signature(model.forward).parameters
    return model(input_ids=torch.tensor([ids]), **inputs, **({"use_cache": False} if caches else {}))


def _fault(logits: torch.Tensor, tokens: Sequence[int], logprobs: Sequence[float]) -> str:
    places = range(len(tokens)), list(tokens)
    behind = float((logits.max(-1).values - logits[places]).max())
    off = float((logits.log_softmax(-1)[places] - torch.tensor(logprobs)).abs().max())
    return (
        ""
        if max(behind, off) < NEAR
        else f"{tokens} are {behind:.1e} behind, log-probabilities {off:.1e} off"
    )
