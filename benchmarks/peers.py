"""Other ways to answer the same conversations, each as well set as was found; all return the tokens alone.

Each computes the log-probability of every token, or what it takes for one: so does the engine.
"""

import torch
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from benchmarks.workload import Answers, Conversation, Turn


def loop(model: PreTrainedModel, conversations: list[Conversation]) -> Answers:
    """Earlier Dataloop adapters: one question at a time, the history read again for each.

    Their confidence is one more forward pass, over the question.
    """
    answers: Answers = []
    for conversation in conversations:
        history: list[int] = []
        answers.append([])
        for turn in conversation:
            asked = torch.tensor([history + turn.question])
            output = model.generate(
                asked,
                attention_mask=torch.ones_like(asked),
                max_new_tokens=turn.length,
                do_sample=False,
            )
            history = output[0].tolist()
            answers[-1].append(history[-turn.length :])
            with torch.inference_mode():
                model(torch.tensor([turn.question]))
    return answers


def batched(model: PreTrainedModel, conversations: list[Conversation]) -> Answers:
    """`generate` with left padding: turn k of all conversations is one batch, a row has its own length."""
    answers: Answers = [[] for _ in conversations]
    histories: list[list[int]] = [[] for _ in conversations]
    for turns in zip(*conversations, strict=True):
        asked = [history + turn.question for history, turn in zip(histories, turns, strict=True)]
        given = _generate(model, asked, turns)
        for i, answer in enumerate(given):
            answers[i].append(answer)
            histories[i] = asked[i] + answer
    return answers


def _generate(model: PreTrainedModel, prompts: list[list[int]], turns: tuple[Turn, ...]) -> list[list[int]]:
    input_ids, mask = left_padded(prompts)
    width, lengths = input_ids.shape[1], torch.tensor([turn.length for turn in turns])
    logprobs = ChosenLogprobs()
    output = model.generate(
        input_ids,
        attention_mask=mask,
        max_new_tokens=int(lengths.max()),
        do_sample=False,
        logits_processor=LogitsProcessorList([logprobs]),
        stopping_criteria=StoppingCriteriaList([OwnLengths(width, lengths)]),
    )
    assert len(logprobs.steps) == output.shape[1] - width
    return [row[width : width + turn.length].tolist() for row, turn in zip(output, turns, strict=True)]


def left_padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and their mask, (rows, longest)."""
    width = max(map(len, prompts))
    input_ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return input_ids, mask


class ChosenLogprobs(LogitsProcessor):
    """Notes what greedy search chooses, step by step: cheaper than `output_scores`, which keeps all."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Leaves (rows, vocabulary) scores as they are."""
        self.steps.append(scores.amax(-1).float() - scores.float().logsumexp(-1))
        return scores


class OwnLengths(StoppingCriteria):
    """Ends each row after so many new tokens."""

    def __init__(self, width: int, lengths: torch.Tensor) -> None:
        self.ends = width + lengths

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        """(rows,): which are done."""
        return input_ids.shape[1] >= self.ends


# Of the settings tried on a CPU, the fastest; the defaults take gigabytes there.
CONTINUOUS = {"page_size": 32, "max_batch_tokens": 512, "use_async_batching": False}


class ContinuousBatching:
    """transformers' continuous batching with log-probabilities; a turn is asked once the last has ended.

    Attributes:
        settings: of `ContinuousBatchingConfig`, instead of `CONTINUOUS`.
    """

    def __init__(self, model: PreTrainedModel, **settings: object) -> None:
        self.model = model
        self.settings = CONTINUOUS | settings

    def answer(self, conversations: list[Conversation]) -> Answers:
        """Answers with a new manager and an empty cache; `close` is to be called then.

        Raises:
            RuntimeError: a request failed.
        """
        self.manager = self.model.init_continuous_batching(
            GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            ContinuousBatchingConfig(
                num_blocks=self._blocks(conversations),
                return_logprobs=True,
                max_requests_per_batch=len(conversations),
                **self.settings,
            ),
        )
        self.manager.start()
        answers: Answers = [[] for _ in conversations]
        prompts = [list(conversation[0].question) for conversation in conversations]

        def ask(i: int) -> None:
            length = conversations[i][len(answers[i])].length
            self.manager.add_request(prompts[i], f"{i} {len(answers[i])}", max_new_tokens=length)

        for i in range(len(conversations)):
            ask(i)
        for _ in range(sum(map(len, conversations))):
            i, tokens = self._next()
            answers[i].append(tokens)
            if len(answers[i]) < len(conversations[i]):
                prompts[i] += tokens + conversations[i][len(answers[i])].question
                ask(i)
        return answers

    def close(self) -> None:
        """Stops the manager, which takes half a second that no answer waits for."""
        self.manager.stop()
        self.manager.destroy()

    def _next(self) -> tuple[int, list[int]]:
        while (result := self.manager.get_result(timeout=1)) is None:
            if not self.manager.is_running():
                raise RuntimeError("continuous batching has stopped")
        if result.error:
            raise RuntimeError(f"continuous batching failed: {result.error}")
        assert len(result.logprobs) == len(result.generated_tokens)
        return int(result.request_id.split()[0]), list(result.generated_tokens)

    def _blocks(self, conversations: list[Conversation]) -> int:
        """So many that every conversation has room to its end."""
        lengths = (sum(len(turn.question) + turn.length for turn in c) for c in conversations)
        return sum(-(-length // self.settings["page_size"]) + 1 for length in lengths)
