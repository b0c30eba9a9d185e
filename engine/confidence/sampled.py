"""Methods that compare an answer with others that were sampled for the same question."""

import math
import re
import unicodedata
from collections import Counter
from importlib.util import find_spec
from itertools import combinations
from statistics import fmean

from engine.confidence.evidence import Samples
from engine.errors import ConfigurationError

_WORD = re.compile(r"\w+")
# A stemmer's rules are for words of more letters, as in the package rouge-score.
_SHORT = 3


def self_consistency(samples: Samples) -> float | None:
    """The share of sampled answers that equal the answer after `normalized` (Wang et al. 2022).

    None without samples. An empty answer equals an empty sample.
    """
    answer = normalized(samples.answer)
    return fmean(normalized(text) == answer for text in samples.texts) if samples.texts else None


def lexical_similarity(samples: Samples) -> float | None:
    """The mean ROUGE-L (F-measure) over all pairs of sampled answers (Fomicheva et al. 2020).

    lm-polygraph's `LexicalSimilarity` with the opposite sign; for other alphabets than the Latin one, words
    are counted here that it drops. None with fewer than two samples. An empty text has similarity 0 to any.

    Raises:
        ConfigurationError: the package rouge-score is not installed.
    """
    if len(samples.texts) < 2:
        return None
    require_rouge()
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return fmean(scorer.score(*pair)["rougeL"].fmeasure for pair in combinations(samples.texts, 2))


def require_rouge() -> None:
    """Raises a `ConfigurationError` if the package rouge-score is not installed."""
    if find_spec("rouge_score") is None:
        raise ConfigurationError("lexical_similarity needs a package: pip install rouge-score")


def semantic_entropy(samples: Samples) -> float | None:
    """exp(Σ_c f_c log f_c): f_c is the share of the samples in cluster c, whose texts mean the same.

    1 where all samples mean the same, 1/n where each of n means something else. The exponential of the
    discrete semantic entropy (Farquhar et al. 2024) with the opposite sign, lm-polygraph's `SemanticEntropy`
    with `class_probability_estimation="frequency"`. The variant that sums the samples' probabilities counts
    a text that is drawn twice twice, and needs log-probabilities. None without clusters.
    """
    if not samples.clusters:
        return None
    shares = [count / len(samples.clusters) for count in Counter(samples.clusters).values()]
    return math.exp(sum(share * math.log(share) for share in shares))


def normalized(text: str) -> str:
    """A text for comparison: NFKC, case folded, without punctuation at word ends, single spaces.

    Signs within words and numbers stay: "3.5", "-3", "+" and "don't" keep theirs.
    """
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(filter(None, (_bare(word) for word in words)))


def _bare(word: str) -> str:
    return word.rstrip(".,;:!?\"'«»“”‘’)]}…。、").lstrip("\"'«»„“”‚‘([{¿¡")


class _Words:
    """Words of any alphabet, stemmed as by rouge-score: on ASCII texts the same as its own tokenizer."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stemmer = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        words = _WORD.findall(text.lower().replace("_", " "))
        return [self._stemmer.stem(word) if len(word) > _SHORT else word for word in words]
