"""vLLM without a server, by `python vllm_offline.py SETTINGS` with its interpreter.

Its engine runs in this process: by default it has one of its own, and gave two thirds of the tokens a second
on a machine that did nothing else.
"""

import os
import time
from typing import Any

from lines import Conversations, serve

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import LLM, SamplingParams
from vllm.sampling_params import RequestOutputKind


class Contender:
    """vLLM's engine, one step at a time."""

    llm: Any

    def load(self, settings: dict) -> float:
        """Loads a folder's model in a dtype; `eager` is without compilation."""
        started = time.perf_counter()
        self.llm = LLM(
            model=settings["folder"],
            dtype=settings["dtype"],
            enforce_eager=settings["eager"],
            enable_prefix_caching=True,
            skip_tokenizer_init=True,
            max_num_seqs=64,
        )
        return time.perf_counter() - started

    def reset(self) -> None:
        """Empties the prefix cache."""
        assert self.llm.reset_prefix_cache()

    def answer(self, conversations: Conversations) -> list[list[list[int]]]:
        """Answers, with log-probabilities; each turn is asked as soon as the one before is answered."""
        engine = self.llm.llm_engine
        answers: list[list[list[int]]] = [[] for _ in conversations]
        prompts = [list(conversation[0][0]) for conversation in conversations]

        def ask(i: int) -> None:
            settings = SamplingParams(
                temperature=0,
                max_tokens=conversations[i][len(answers[i])][1],
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            engine.add_request(f"{i} {len(answers[i])}", {"prompt_token_ids": prompts[i]}, settings)

        for i in range(len(conversations)):
            ask(i)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if not output.finished:
                    continue
                i, [answer] = int(output.request_id.split()[0]), output.outputs
                assert len(answer.logprobs) == len(answer.token_ids)
                answers[i].append(list(answer.token_ids))
                if len(answers[i]) < len(conversations[i]):
                    prompts[i] += [*answer.token_ids, *conversations[i][len(answers[i])][0]]
                    ask(i)
        return answers


if __name__ == "__main__":
    contender = Contender()
    serve(contender.load, contender.answer, contender.reset)
