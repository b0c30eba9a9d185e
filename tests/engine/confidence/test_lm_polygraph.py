"""lm-polygraph's estimators and these methods give the same numbers.

The fixed vectors are lm-polygraph 0.7.0's; where it is installed, its own code is asked.
"""

import math

import pytest

from engine.confidence import Evidence, Samples, measure

pytestmark = pytest.mark.numeric

# What lm-polygraph says of log-probabilities, entropies in nats, sampled texts and their clusters.
VECTORS = [
    {
        "logprobs": [-4.908716],
        "entropies": [3.505495],
        "texts": ["2 + 6 = 8", "2 + 6 = 7", "2 + 6 = 8"],
        "clusters": [0, 1, 0],
        "estimates": {
            "Perplexity": 4.908716,
            "MaximumSequenceProbability": 4.908716,
            "MeanTokenEntropy": 3.505495,
            "LexicalSimilarity_rougeL": -0.777778,
            "SemanticEntropyEmpirical": 0.636514,
        },
    },
    {
        "logprobs": [-4.270618, -0.303519, -1.292095],
        "entropies": [2.537345, 1.225267, 2.353221],
        "texts": [
            "The capital of Japan is Tokyo.",
            "Tokyo is the capital of Japan.",
            "Japan's capital: Tokyo",
            "I do not know that.",
        ],
        "clusters": [0, 0, 0, 1],
        "estimates": {
            "Perplexity": 1.955411,
            "MaximumSequenceProbability": 5.866232,
            "MeanTokenEntropy": 2.038611,
            "LexicalSimilarity_rougeL": -0.211111,
            "SemanticEntropyEmpirical": 0.562335,
        },
    },
    {
        "logprobs": [-6.215122, -0.916923, -0.800586, -0.146982, -0.021688, -0.6527, -0.144662, -0.55583],
        "entropies": [0.903351, 1.791145, 1.489225, 0.464777, 0.140194, 0.989021, 0.522908, 1.303464],
        "texts": ["He was running and jumped.", "He runs and jumps!", "", "They were walking"],
        "clusters": [0, 0, 1, 2],
        "estimates": {
            "Perplexity": 1.181812,
            "MaximumSequenceProbability": 9.454493,
            "MeanTokenEntropy": 0.950511,
            "LexicalSimilarity_rougeL": -0.148148,
            "SemanticEntropyEmpirical": 1.039721,
        },
    },
    {
        "logprobs": [
            -11.744187,
            -0.173152,
            -1.17993,
            -0.019911,
            -0.001526,
            -0.071322,
            -0.130889,
            -0.072528,
            -0.425027,
            -0.391668,
            -0.519519,
            -0.00832,
            -0.293986,
            -0.004633,
            -0.002969,
            -0.203836,
            -0.065429,
            -0.736041,
            -0.130983,
            -0.248831,
        ],
        "entropies": [
            0.640093,
            0.577558,
            1.525968,
            0.123154,
            0.011931,
            0.280726,
            0.414247,
            0.305194,
            1.102345,
            0.812586,
            0.699455,
            0.055059,
            1.0729,
            0.032961,
            0.023671,
            0.502388,
            0.293672,
            0.875843,
            0.382567,
            0.658536,
        ],
        "texts": ["same answer", "same answer"],
        "clusters": [0, 0],
        "estimates": {
            "Perplexity": 0.821234,
            "MaximumSequenceProbability": 16.424687,
            "MeanTokenEntropy": 0.519543,
            "LexicalSimilarity_rougeL": -1.0,
            "SemanticEntropyEmpirical": -0.0,
        },
    },
]


def estimates(row) -> dict[str, float | None]:
    """The confidences of a row, each turned into the uncertainty that lm-polygraph's estimator gives."""
    samples = Samples("", tuple(row["texts"]), tuple(row["clusters"]))
    evidence = Evidence(row["logprobs"], entropies=row["entropies"], samples=samples)
    similarity = measure("lexical_similarity", evidence)
    methods = {
        "Perplexity": "mean_logprob",
        "MaximumSequenceProbability": "sequence",
        "MeanTokenEntropy": "mean_entropy",
        "SemanticEntropyEmpirical": "semantic_entropy",
    }
    found = {name: -math.log(measure(method, evidence)) for name, method in methods.items()}
    return found | {"LexicalSimilarity_rougeL": -similarity}


@pytest.mark.parametrize("row", VECTORS)
def test_the_numbers_are_those_of_lm_polygraph(row):
    assert estimates(row) == pytest.approx(row["estimates"], abs=1e-4)


@pytest.mark.parametrize("row", VECTORS)
def test_lm_polygraph_itself_gives_these_numbers(row):
    estimators = pytest.importorskip("lm_polygraph.estimators")
    clusters = row["clusters"]
    members = [[i for i, one in enumerate(clusters) if one == number] for number in range(max(clusters) + 1)]
    stats = {
        "greedy_log_likelihoods": [row["logprobs"]],
        "entropy": [row["entropies"]],
        "sample_texts": [row["texts"]],
        "semantic_classes_entail": {
            "class_to_sample": {0: members},
            "sample_to_class": {0: dict(enumerate(clusters))},
        },
    }
    asked = [
        estimators.Perplexity(),
        estimators.MaximumSequenceProbability(),
        estimators.MeanTokenEntropy(),
        estimators.LexicalSimilarity("rougeL"),
        estimators.SemanticEntropy(class_probability_estimation="frequency"),
    ]
    theirs = {str(estimator): float(estimator(stats)[0]) for estimator in asked}
    assert estimates(row) == pytest.approx(theirs, abs=1e-4)


def test_the_least_certain_position_is_the_largest_of_the_token_entropies():
    assert measure("max_entropy", Evidence([-1.0, -1.0], entropies=[0.2, 1.5])) == pytest.approx(
        math.exp(-1.5)
    )
