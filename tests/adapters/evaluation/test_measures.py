"""Measures of an answer against a true one, compared with their reference implementations."""

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from adapters.evaluation import measures
from adapters.evaluation.measures import MEASURES, best, exact_match, named, normalized
from engine.errors import ConfigurationError

PAIRS = [
    ("The capital of Japan is Tokyo.", "Tokyo"),
    ("the cat sat on the mat", "on the mat the cat sat"),
    ("2 + 6 = 7", "2 + 6 = 8"),
    ("", "something"),
    ("same words", "same words"),
]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  The Answer, is: Yes! ", "answer is yes"),
        ("2 + 6 = 8.", "2 + 6 = 8"),
        ("it is -3.5", "it is -3.5"),
        ("well-known", "well known"),
        ("Grüß Gott", "grüss gott"),
    ],
)
def test_case_punctuation_and_articles_do_not_count(text: str, plain: str):
    assert normalized(text) == plain


@pytest.mark.parametrize(
    ("name", "answer", "truth", "score"),
    [
        ("exact_match", "Tokyo.", "tokyo", 1),
        ("exact_match", "-3", "3", 0),
        ("contains", "The capital of Japan is Tokyo.", "Tokyo", 1),
        ("contains", "Tokyoites", "Tokyo", 0),
        ("number", "2 + 6 = 8", "8.0", 1),
        ("number", "it costs 1,200", "1200", 1),
        ("number", "it costs 1,200", "12", 0),
        ("number", "nothing", "8", 0),
        ("token_f1", "a b c", "b c d", 2 * 2 / 5),
    ],
)
def test_a_measure_gives(name: str, answer: str, truth: str, score: float):
    assert MEASURES[name](answer, truth) == pytest.approx(score)


@pytest.mark.parametrize(("answer", "truth"), PAIRS)
def test_rouge_bleu_and_chrf_are_those_of_their_packages(answer: str, truth: str):
    rouge = RougeScorer(["rougeL"]).score(truth, answer)["rougeL"].fmeasure
    assert MEASURES["rouge_l"](answer, truth) == pytest.approx(rouge)
    assert MEASURES["bleu"](answer, truth) * 100 == pytest.approx(
        sacrebleu.sentence_bleu(answer, [truth]).score
    )
    assert MEASURES["chrf"](answer, truth) * 100 == pytest.approx(
        sacrebleu.sentence_chrf(answer, [truth]).score
    )


def test_the_best_of_several_true_answers_counts():
    assert best(exact_match, "Tokyo", ["Kyoto", "tokyo!"]) == 1


def test_a_function_of_the_users_own_is_a_measure(tmp_path):
    (tmp_path / "mine.py").write_text("def starts(answer, truth): return float(answer.startswith(truth))\n")
    assert named(f"{tmp_path}/mine.py:starts")("yes, sir", "yes") == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("exact", "there is no measure 'exact': take one of exact_match"),
        ("{folder}/nobody.py:f", "nobody.py cannot be imported"),
        ("{folder}/mine.py:g", "mine.py has no function 'g'"),
    ],
)
def test_a_measure_that_is_not_there_is_refused(tmp_path, name: str, reason: str):
    (tmp_path / "mine.py").write_text("def f(answer, truth): return 1\n")
    with pytest.raises(ConfigurationError, match=reason):
        named(name.format(folder=tmp_path))


@pytest.mark.parametrize("score", [2, float("nan")])
def test_a_score_that_is_none_is_refused(score: float):
    with pytest.raises(ConfigurationError, match="return a number from 0 to 1"):
        best(lambda answer, truth: score, "a", ["b"])


def test_without_sacrebleu_the_other_measures_are_there(monkeypatch):
    monkeypatch.setattr(measures.importlib.util, "find_spec", lambda name: None)
    assert set(measures.available()) == set(MEASURES) - {"bleu", "chrf"}
