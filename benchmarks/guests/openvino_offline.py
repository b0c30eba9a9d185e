"""OpenVINO GenAI's continuous batching, by `python openvino_offline.py SETTINGS` with its interpreter.

The model is converted by optimum-intel first, with weights in half precision; this is not part of loading.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from lines import Conversations, serve
from optimum.exporters.openvino import main_export


class Contender:
    """OpenVINO's pipeline, one step at a time."""

    pipeline: Any

    def load(self, settings: dict) -> float:
        """Converts and loads."""
        self._folder = tempfile.TemporaryDirectory()
        main_export(settings["folder"], self._folder.name, task="text-generation-with-past", dtype="fp16")
        started = time.perf_counter()
        self.reset()
        return time.perf_counter() - started

    def reset(self) -> None:
        """Loads anew: the cache cannot be emptied."""
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 2
        scheduler.enable_prefix_caching = True
        scheduler.max_num_seqs = 64
        self.pipeline = None
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(Path(self._folder.name), scheduler, "CPU")

    def answer(self, conversations: Conversations) -> list[list[list[int]]]:
        """Answers, with log-probabilities; each turn is asked as soon as the one before is answered."""
        answers: list[list[list[int]]] = [[] for _ in conversations]
        prompts = [list(conversation[0][0]) for conversation in conversations]
        running: dict[int, Any] = {}
        asked = 0

        def ask(i: int) -> None:
            nonlocal asked
            settings = openvino_genai.GenerationConfig()
            settings.max_new_tokens = conversations[i][len(answers[i])][1]
            settings.ignore_eos, settings.do_sample, settings.logprobs = True, False, 1
            settings.set_eos_token_id(0)  # It has to have one.
            ids = openvino.Tensor(np.array([prompts[i]], np.int64))
            running[i] = self.pipeline.add_request(asked, ids, settings)
            asked += 1

        for i in range(len(conversations)):
            ask(i)
        while running:
            self.pipeline.step()
            for i, handle in list(running.items()):
                if handle.get_status() == openvino_genai.GenerationStatus.RUNNING:
                    continue
                del running[i]
                [answer] = handle.read_all()
                tokens = list(answer.generated_ids)
                assert len(answer.generated_log_probs) == len(tokens)
                answers[i].append(tokens)
                if len(answers[i]) < len(conversations[i]):
                    prompts[i] += [*tokens, *conversations[i][len(answers[i])][0]]
                    ask(i)
        return answers


if __name__ == "__main__":
    contender = Contender()
    serve(contender.load, contender.answer, contender.reset)
