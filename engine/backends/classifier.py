"""The backend of models that score and label: those with a classification head, and causal rerankers."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from engine.backends.dispatch import dispatch
from engine.backends.loaded_model import LoadedModel
from engine.classification import Classification, Classifier
from engine.contract import Classified, Follow
from engine.errors import AdapterError, ConfigurationError, Unsupported
from engine.loading import Loaded
from engine.loading.files import find_file, is_logit_score, read_json
from engine.types import Answer, Chunk, Request, Usage

# Requests that are classified together.
BATCH = 256
# A CrossEncoder's own settings, which transformers does not save.
_SETTINGS = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")


class ClassifierEngine(LoadedModel):
    """Runs a model that scores or labels on this machine: a reranker, a reward model, a classifier.

    Its answer to a request is the most likely of its labels, or of `labels`, with the probability of each.
    """

    def __init__(self, loaded: Loaded) -> None:
        """Prepacks the weights, and tries how texts may share a batch.

        Raises:
            Unsupported: the model fails by itself, or its folder has a setting that is not supported.
        """
        super().__init__(loaded)
        self._classifier = Classifier(loaded)
        self.labels = self._classifier.settings.labels

    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, deltas: bool = True
    ) -> Iterator[Chunk]:
        """Answers requests by labels, many together; each answer comes as one chunk."""
        self.check_process()
        yield from dispatch(requests, follow, _LabelWorker(self))

    def classify(self, texts: Sequence[Classified]) -> list[Classification]:
        """What the head says of each text, pair of texts or conversation.

        Returns:
            One for each text, in their order; a failed one carries its error.

        Raises:
            Unsupported: a model that was loaded before a fork.
        """
        self.check_process()
        return self._classifier.classify(texts)

    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """The most likely label of each request, with the probability of each label."""
        return [
            self._answer(request, found)
            for request, found in zip(requests, self.classify(requests), strict=True)
        ]

    def save(self, folder: str | Path) -> None:
        """Writes the model, its tokenizer and a CrossEncoder's settings to a folder that `load` takes."""
        super().save(folder)
        if self.loaded.options is not None:
            modules = read_json(self.loaded.options, "modules.json") or ()
            paths = [f"{module['path']}/config.json" for module in modules if is_logit_score(module["type"])]
            for name in (*_SETTINGS, *paths):
                if file := find_file(self.loaded.options, name):
                    (Path(folder) / name).parent.mkdir(exist_ok=True)
                    shutil.copy(file, Path(folder) / name)

    def unsupported(self, name: str) -> Unsupported:
        """The error of what a model that scores cannot do."""
        if self._classifier.settings.logit_score is not None:
            return Unsupported(
                f"{type(self.loaded.model).__name__} is a reranker by its folder's LogitScore module: it "
                f"scores pairs of texts (score, rank, classify) and does not support {name}: take a model "
                "that writes for that"
            )
        ways = 'for embeddings set task = "embed" in its model file; for texts take a model that writes'
        return Unsupported(
            f"{type(self.loaded.model).__name__} has a classification head: it scores and labels texts "
            f"(score, rank, classify) and does not support {name}: {ways}"
        )

    def _answer(self, request: Request, found: Classification) -> Answer:
        try:
            if not self.labels:
                raise Unsupported(
                    f"{type(self.loaded.model).__name__} gives a score and has no labels, and it writes no "
                    "text: ask score or rank"
                )
            if found.error is not None:
                raise found.error
            probabilities = self._chosen(request, found)
        except AdapterError as error:
            return Answer.failed(error)
        best = max(probabilities, key=probabilities.__getitem__)
        return Answer(
            text=best,
            token_ids=(),
            logprobs=None,
            confidence=probabilities[best],
            finish_reason="stop",
            usage=Usage(found.num_tokens, 0),
            labels=probabilities,
        )

    def _chosen(self, request: Request, found: Classification) -> dict[str, float]:
        """The probability of each label that the request allows.

        Raises:
            ConfigurationError: labels that the model does not have, or an option that needs another model.
        """
        options = request.options
        for key in ("label_prior", "response_format"):
            if getattr(options, key):
                raise ConfigurationError(f"{key} is for a model that writes text: leave it out")
        if request.suffix is not None:
            raise ConfigurationError("suffix is for a model that writes text: leave it out")
        if unknown := [label for label in options.labels if label not in found.labels]:
            raise ConfigurationError(
                f"labels has {unknown[0]!r}, and the model's own labels are {', '.join(self.labels)}: take "
                "some of these, or leave labels out"
            )
        chosen = {label: found.labels[label] for label in options.labels or found.labels}
        if self._classifier.settings.kind == "multiple":
            return chosen
        total = sum(chosen.values()) or 1
        return {label: probability / total for label, probability in chosen.items()}


class _LabelWorker:
    """The requests of one call of `ClassifierEngine.stream`."""

    num_running = 0  # None outlasts a step.

    def __init__(self, engine: ClassifierEngine) -> None:
        self._engine = engine
        self._waiting: dict[int, Request] = {}

    @property
    def has_room(self) -> bool:
        return len(self._waiting) < BATCH

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    def add(self, index: int, request: Request, front: bool) -> tuple[()]:
        self._waiting[index] = request
        return ()

    def drop(self, index: int) -> None:
        del self._waiting[index]

    def step(self, block: bool) -> Iterator[Chunk]:
        asked, self._waiting = self._waiting, {}
        answers = self._engine.answers(list(asked.values()))
        for index, answer in zip(asked, answers, strict=True):
            yield Chunk(index, answer.text, answer)
