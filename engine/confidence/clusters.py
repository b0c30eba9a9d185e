"""Clusters of texts that mean the same, by another model: one for entailment, or one for embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from engine.confidence.second_model import second_model
from engine.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np

    from engine.classification import Classifier


class Comparer(Protocol):
    """A model that compares texts."""

    def __call__(self, texts: Sequence[str], similarity: float) -> np.ndarray:
        """bool (texts, texts): whether the text of the column follows from the text of the row."""
        ...


def clusters(texts: Sequence[str], comparer: Comparer, similarity: float) -> tuple[int, ...]:
    """The number of each text's cluster, from 0.

    A text joins the first cluster whose first text it entails and is entailed by, as in Kuhn et al. 2023 and
    in lm-polygraph. Equal texts are compared once.
    """
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return ()
    entails = comparer(distinct, similarity)
    firsts: list[int] = []
    found: dict[str, int] = {}
    for i, text in enumerate(distinct):
        same = (number for number, one in enumerate(firsts) if entails[one, i] and entails[i, one])
        found[text] = next(same, len(firsts))
        if found[text] == len(firsts):
            firsts.append(i)
    return tuple(found[text] for text in texts)


@lru_cache(maxsize=2)
def comparer(name: str) -> Comparer:
    """Loads a model that compares texts; one with an "entailment" class compares by it, others by embeddings.

    Args:
        name: hub id or local folder.

    Raises:
        ConfigurationError: a classifier that does not classify entailment.
        LoadError: gated, missing, offline or unsafe; the text says what to do.
    """
    from engine.classification import Classifier
    from engine.loading import load
    from engine.loading.diagnosis import explain_load_errors
    from engine.loading.files import read_json
    from engine.options import LoadOptions

    options = LoadOptions(model_name=name)
    with explain_load_errors(options):
        config = read_json(options, "config.json") or {}
    if any("SequenceClassification" in one for one in config.get("architectures") or ()):
        return _Entailment(name, Classifier(load(options)))
    return _Embeddings(name)


class _Entailment:
    """An NLI model: a classifier of pairs of texts, one of whose classes is called "entailment"."""

    def __init__(self, name: str, classifier: Classifier) -> None:
        labels = classifier.settings.labels
        classes = [label.casefold() for label in labels]
        if "entailment" not in classes:
            raise ConfigurationError(
                f"confidence_model {name!r} has the classes {', '.join(classes)}: name a model that has the "
                "class entailment, or an embedding model"
            )
        self._entailment = classes.index("entailment")
        self._classifier = classifier

    def __call__(self, texts: Sequence[str], similarity: float) -> np.ndarray:
        import numpy as np

        found = self._classifier.classify([(one, other) for one in texts for other in texts])
        for one in found:
            if one.error is not None:
                raise one.error
        best = np.array([one.logits for one in found]).argmax(-1)
        entailed: np.ndarray = (best == self._entailment).reshape(len(texts), len(texts))
        return entailed


class _Embeddings:
    """An embedding model: texts mean the same where the cosine of their vectors is large enough."""

    def __init__(self, name: str) -> None:
        self._engine = second_model(name, "embed")

    def __call__(self, texts: Sequence[str], similarity: float) -> np.ndarray:
        import numpy as np

        vectors = self._engine.embed(texts)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(lengths, 1e-12)
        same: np.ndarray = vectors @ vectors.T >= similarity
        return same
