"""The engine that runs transformers on this machine."""

from collections.abc import Callable, Sequence

from engine import confidence
from engine.errors import AdapterError
from engine.generation import Generated, Row, generate
from engine.loading import Loaded
from engine.options import GenerationOptions
from engine.prompting import Prompter
from engine.types import Answer, Request, Usage


class LocalEngine:
    """Answers requests with a loaded model."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.tokenizer = loaded.tokenizer
        self.prompter = Prompter(loaded.tokenizer, loaded.model.config, loaded.window)
        self.eos = _end_ids(loaded)

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """An answer for each request, in their order; one that fails carries its error and costs no other."""
        answers: list[Answer | None] = [None] * len(requests)
        rows: dict[int, Row] = {}
        for i, request in enumerate(requests):
            try:
                rows[i] = self._row(request)
            except AdapterError as error:
                answers[i] = Answer.failed(error)
        pad = self.tokenizer.pad_token_id
        generated = generate(
            self.loaded.model,
            list(rows.values()),
            eos=self.eos,
            pad=min(self.eos, default=0) if pad is None else pad,
            window=self.loaded.window,
        )
        for (i, row), result in zip(rows.items(), generated, strict=True):
            answers[i] = self._answer(row, result) if isinstance(result, Generated) else Answer.failed(result)
        return answers  # type: ignore[return-value]  # every index was filled above

    def _row(self, request: Request) -> Row:
        prompt = self.prompter.encode(request.messages, request.options)
        options = request.options.model_copy(update={"stop": self.prompter.stops(request.options)})
        return Row(
            prompt=prompt,
            max_new_tokens=self.prompter.answer_limit(len(prompt), options),
            options=options,
            ended=self._stop_reached(options) if options.stop else None,
        )

    def _stop_reached(self, options: GenerationOptions) -> Callable[[Sequence[int]], bool]:
        # On text: one stop string has many spellings in tokens. It may be a special token, too.
        def reached(tokens: Sequence[int]) -> bool:
            text = self._text(tokens, special=True)
            return any(stop in text for stop in options.stop)

        return reached

    def _answer(self, row: Row, generated: Generated) -> Answer:
        text = self._text(generated.token_ids)
        starts = [text.find(stop) for stop in row.options.stop]
        cut = min((start for start in starts if start >= 0), default=len(text))
        return Answer(
            text=text[:cut].strip(),
            token_ids=tuple(generated.token_ids),
            logprobs=tuple(generated.logprobs),
            confidence=confidence.measure(row.options.confidence, generated.evidence),
            finish_reason="stop" if generated.stopped else "length",
            usage=Usage(len(row.prompt), len(generated.token_ids)),
        )

    def _text(self, token_ids: Sequence[int], special: bool = False) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=not special))


def _end_ids(loaded: Loaded) -> frozenset[int]:
    ids = loaded.model.generation_config.eos_token_id
    ids = loaded.tokenizer.eos_token_id if ids is None else ids
    return frozenset([] if ids is None else [ids] if isinstance(ids, int) else ids)
