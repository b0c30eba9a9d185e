"""Measures of an answer against a true one, in [0, 1]: plain functions of two texts."""

from __future__ import annotations

import importlib.util
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from engine.errors import ConfigurationError, Unsupported

Measure = Callable[[str, str], float]

_NUMBER = re.compile(r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?")
# What is no word: all punctuation but the sign of a number and the point within one.
_PUNCTUATION = re.compile(r"(?!(?<!\w)-\d)(?!(?<=\d)[.,]\d)[^\w\s]")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalized(text: str) -> str:
    """Lower case, without punctuation, English articles and repeated spaces, as SQuAD's measures have it.

    Symbols of mathematics and currencies stay, and so do the sign and the point of a number.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("−", "-")
    plain = _PUNCTUATION.sub(lambda found: " " if _is_punctuation(found[0]) else found[0], folded)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


def exact_match(answer: str, truth: str) -> float:
    """1 if both are equal after `normalized`, else 0."""
    return float(normalized(answer) == normalized(truth))


def contains(answer: str, truth: str) -> float:
    """1 if the words of the true answer stand in the answer, in their order and together, else 0."""
    return float(f" {normalized(truth)} " in f" {normalized(answer)} ")


def number(answer: str, truth: str) -> float:
    """1 if the last number of the answer is the last one of the true answer, else 0; 0 without a number."""
    found, wanted = _last_number(answer), _last_number(truth)
    return float(found is not None and wanted is not None and math.isclose(found, wanted, rel_tol=1e-9))


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("−", "-")) if found else None


def token_f1(answer: str, truth: str) -> float:
    """The harmonic mean of precision and recall of the words after `normalized`, as SQuAD's F1."""
    found, wanted = normalized(answer).split(), normalized(truth).split()
    return _f1(sum((Counter(found) & Counter(wanted)).values()), len(found), len(wanted))


def rouge_l(answer: str, truth: str) -> float:
    """ROUGE-L (Lin, 2004): F1 of the longest common subsequence of words, which are letters and digits.

    As `rouge_score` computes it, without stemming, for texts of any script.
    """
    found, wanted = _words(answer), _words(truth)
    row = [0] * (len(wanted) + 1)
    for word in found:
        diagonal = 0
        for j, other in enumerate(wanted, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return _f1(row[-1], len(found), len(wanted))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _f1(common: int, found: int, wanted: int) -> float:
    if not found and not wanted:
        return 1.0
    return 2 * common / (found + wanted)


def bleu(answer: str, truth: str) -> float:
    """BLEU of one sentence by sacrebleu, divided by 100."""
    return min(float(_sacrebleu().sentence_bleu(answer, [truth]).score) / 100, 1.0)


def chrf(answer: str, truth: str) -> float:
    """ChrF of one sentence by sacrebleu, divided by 100."""
    return min(float(_sacrebleu().sentence_chrf(answer, [truth]).score) / 100, 1.0)


@cache
def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise Unsupported("BLEU and chrF need sacrebleu: pip install sacrebleu") from None
    return sacrebleu


MEASURES: dict[str, Measure] = {
    "exact_match": exact_match,
    "contains": contains,
    "number": number,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
    "bleu": bleu,
    "chrf": chrf,
}


def available() -> dict[str, Measure]:
    """The measures whose packages are installed."""
    missing = set() if importlib.util.find_spec("sacrebleu") else {"bleu", "chrf"}
    return {name: measure for name, measure in MEASURES.items() if name not in missing}


def best(measure: Measure, answer: str, truths: Sequence[str]) -> float:
    """The highest score of an answer against several true ones.

    Raises:
        ConfigurationError: a custom measure returned no number in [0, 1].
    """
    score = max(float(measure(answer, truth)) for truth in truths)
    if not 0 <= score <= 1:
        raise ConfigurationError(f"the measure gave {score!r}: let it return a number from 0 to 1")
    return score


def named(name: str) -> Measure:
    """A measure by its name, or a custom function as FILE.py:FUNCTION.

    Raises:
        ConfigurationError: there is no such measure, file or function.
    """
    if name in MEASURES:
        return MEASURES[name]
    file, _, function = name.rpartition(":")
    if not file.endswith(".py"):
        raise ConfigurationError(
            f"there is no measure {name!r}: take one of {', '.join(MEASURES)}, or FILE.py:FUNCTION"
        )
    spec = importlib.util.spec_from_file_location("measure", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # Custom code: any exception is possible.
        raise ConfigurationError(f"{file} cannot be imported: {error!r}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigurationError(f"{file} has no function {function!r}: write one, (answer, truth) -> 0 to 1")
    return found  # type: ignore[no-any-return]
