"""Trials at load: their inputs show whatever a faster way to run the model would change."""

import pytest
import torch
import transformers

from engine import trial
from engine.backends.local import LocalEngine
from engine.errors import Unsupported
from engine.generation.support import static_batching
from engine.options import GenerationOptions
from engine.types import Request
from tests import tiny
from tests.helpers import architectures
from tests.helpers.sequences import prompt

OPTIONS = GenerationOptions(max_new_tokens=6)
PROMPTS = [prompt(length, length) for length in (3, 20, 40, 41)]


def answers(engine: LocalEngine, prompts=PROMPTS) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in engine.generate([Request((), OPTIONS, tuple(p)) for p in prompts])]


def loaded(model) -> LocalEngine:
    return LocalEngine(tiny.loaded(model))


def config(kind: str, **settings):
    sizes = {"vocab_size": tiny.VOCABULARY, "pad_token_id": tiny.PAD, "eos_token_id": None}
    return getattr(transformers, f"{kind}Config")(**sizes | settings)


def made(given) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(given).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in name and "conv" not in name:
                weight.normal_(std=0.3)
    model.generation_config.eos_token_id = None
    return model


@pytest.mark.parametrize("window", [9, 16, 300])
def test_a_window_is_narrowed_for_the_trial_and_given_back(window: int):
    model = tiny.random_model("mistral", sliding_window=window)
    ids = torch.tensor([prompt(20)])
    before = model(ids).logits
    with trial.narrowed_windows(model):
        assert model.config.sliding_window == trial.WINDOW
        assert not torch.allclose(model(ids).logits[0, -1], tiny_window_of(model, 300, ids)[0, -1], atol=1e-2)
    assert model.config.sliding_window == window
    assert torch.equal(model(ids).logits, before)


@torch.no_grad()
def tiny_window_of(model, window: int, ids: torch.Tensor) -> torch.Tensor:
    other = tiny.random_model("mistral", sliding_window=window)
    other.load_state_dict(model.state_dict())
    return other(ids).logits


def test_a_window_as_long_as_the_model_is_none():
    model = tiny.random_model("mistral", sliding_window=512)
    with trial.narrowed_windows(model):
        assert model.config.sliding_window == 512


def test_a_difference_is_relative_and_infinite_where_there_is_no_number():
    ones = torch.ones(4)
    assert trial.relative_error([ones, 1.1 * ones], [ones, ones]) == pytest.approx(0.1)
    assert trial.relative_error([ones * torch.nan], [ones]) == float("inf")
    assert trial.relative_error([0 * ones], [0 * ones]) == 0


def test_in_half_precision_a_window_counts_where_it_changes_less_than_rounding_may():
    model = tiny.random_model("llama").bfloat16()
    narrow = torch.randn(6, 50)
    wide, rounded = narrow + 0.05 * torch.randn(6, 50), narrow + 0.01 * torch.randn(6, 50)
    assert trial.is_close(model, [wide], [narrow])
    assert not trial.matches(model, [wide], [narrow], lambda: [wide])
    assert trial.matches(model, [rounded], [narrow], lambda: [wide])
    assert trial.matches(model, [rounded], [narrow], lambda: [narrow])  # There is no window.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["t5", "bloom", "gpt2"])
def test_models_that_mask_padding_are_padded_in_any_dtype(architecture: str, dtype: torch.dtype):
    assert static_batching(tiny.random_model(architecture).to(dtype), tiny.PAD) == "padded"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_do_not_are_not(dtype: torch.dtype):
    assert static_batching(architectures.tiny_model("minimax").to(dtype), tiny.PAD) == "equal_length"


@pytest.mark.parametrize("window", [16, 300])
def test_a_window_that_only_the_mask_knows_has_no_continuous_batching(window: int):
    """The attention of such a layer is not told its window: with continuous batching it would see all."""
    model = tiny.random_model("mistral", sliding_window=window)
    for layer in model.model.layers:
        layer.self_attn.config = _Windowless(layer.self_attn.config)
    engine = loaded(model)
    assert engine.batching.batching == "padded"
    assert answers(engine) == [answers(engine, [one])[0] for one in PROMPTS]


class _Windowless:
    """A configuration that tells a layer of no window."""

    def __init__(self, config) -> None:
        self._config = config

    def __getattr__(self, name: str):
        return None if name == "sliding_window" else getattr(self._config, name)


RECURRENT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "lru_width": 32,
    "attention_window_size": 16,
}
RWKV = {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 512}


@pytest.mark.parametrize(
    ("kind", "settings", "way"),
    [
        ("RecurrentGemma", RECURRENT, "equal_length"),
        ("Rwkv", RWKV, "single"),  # In a batch of several it goes on from a wrong state.
    ],
)
def test_a_model_that_depends_on_padding_or_its_neighbours_gets_none(kind: str, settings: dict, way: str):
    engine, reference = (loaded(made(config(kind, **settings))) for _ in range(2))
    assert engine.batching.batching == way
    expected = [answers(reference, [one])[0] for one in PROMPTS]
    assert answers(engine) == expected
    own = made(config(kind, **settings))
    assert [list(tokens) for tokens in expected] == [
        own.generate(torch.tensor([p]), max_new_tokens=6, do_sample=False)[0, len(p) :].tolist()
        for p in PROMPTS
    ]


def test_no_answer_goes_on_from_what_a_module_kept_of_another():
    fresh, used = (loaded(made(config("RecurrentGemma", **RECURRENT))) for _ in range(2))
    answers(used)
    assert answers(used, [[5]]) == answers(fresh, [[5]])


def test_a_model_whose_sequences_depend_on_each_other_answers_one_by_one():
    model = tiny.random_model("bloom")
    block = model.transformer.h[1].mlp

    def look_around(_layer, args):
        """Each sequence takes some of the others, as experts with a capacity do."""
        return (args[0] + args[0].mean(0, keepdim=True), *args[1:])

    block.register_forward_pre_hook(look_around)
    engine = loaded(model)
    assert engine.batching.batching == "single"
    assert answers(engine) == [answers(engine, [one])[0] for one in PROMPTS]


def test_a_model_that_cannot_generate_by_itself_is_refused():
    model = tiny.random_model("bloom")
    model.transformer.h[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(
        Unsupported, match=r"BloomForCausalLM cannot generate: it fails by itself \(ZeroDivision"
    ):
        loaded(model).new_generator()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
        ("FalconMamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    ],
)
def test_a_weight_that_is_read_past_its_layer_stays(kind: str, settings: dict):
    engine, reference = loaded(made(config(kind, **settings))), made(config(kind, **settings))
    expected = [
        reference.generate(torch.tensor([p]), max_new_tokens=6, do_sample=False)[0, len(p) :].tolist()
        for p in PROMPTS
    ]
    assert [list(tokens) for tokens in answers(engine)] == expected
    assert engine.score(["Hello"], [[" a", " b"]])[0].error is None
    assert engine.embed(["Hello"]).shape == (1, 32)
