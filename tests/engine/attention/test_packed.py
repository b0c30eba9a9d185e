"""Several sequences in one forward pass: each is computed as alone, and the model is left as it was."""

import pytest
import torch
import transformers

from engine.attention.packed import forward, logits, supports_packing
from engine.attention.parameters import AttentionParameters, attention_mask
from engine.attention.varlen import VarlenMetadata
from engine.errors import Unsupported
from tests import tiny
from tests.helpers.sequences import breaking, prompt

pytestmark = pytest.mark.numeric

LENGTHS = [5, 30, 1, 20]


class Nowhere:
    """Attention metadata that must not be used."""

    def attend(self, *_):
        raise AssertionError("asked")


@pytest.fixture(scope="module")
def llama():
    return tiny.random_model("llama")


def pack(lengths: list[int]) -> tuple[list[list[int]], list[int], list[int]]:
    """Sequences, and their tokens and positions as one row."""
    texts = [prompt(length, salt=i) for i, length in enumerate(lengths)]
    return texts, [token for text in texts for token in text], [i for text in texts for i in range(len(text))]


@torch.no_grad()
def separate(model, texts: list[list[int]]) -> torch.Tensor:
    return torch.cat([model(torch.tensor([text])).logits[0] for text in texts])


# One forward pass


@pytest.mark.parametrize("architecture", tiny.IN_FLIGHT)
def test_packed_sequences_have_the_logits_that_each_has_alone(architecture: str):
    model = tiny.random_model(architecture)
    texts, tokens, positions = pack(LENGTHS)
    packed = forward(model, tokens, positions, VarlenMetadata(LENGTHS)).logits[0]
    torch.testing.assert_close(packed, separate(model, texts), atol=1e-3, rtol=1e-4)


def test_a_softcap_and_alternating_windows_are_the_models_own():
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.Gemma2Config(
        **sizes,
        vocab_size=tiny.VOCABULARY,
        intermediate_size=64,
        head_dim=8,
        sliding_window=4,
        attn_logit_softcapping=2.0,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    texts, tokens, positions = pack(LENGTHS)
    packed = forward(model, tokens, positions, VarlenMetadata(LENGTHS)).logits[0]
    torch.testing.assert_close(packed, separate(model, texts), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_logits_are_computed_where_they_are_wanted(architecture: str):
    model = tiny.random_model(architecture)
    texts, tokens, positions = pack(LENGTHS)
    wanted = logits(model, tokens, positions, VarlenMetadata(LENGTHS), [4, 34, 35, 0])
    torch.testing.assert_close(wanted, separate(model, texts)[[4, 34, 35, 0]], atol=1e-3, rtol=1e-4)


def test_a_model_that_cannot_be_told_which_logits_are_wanted_gives_those_all_the_same(llama, monkeypatch):
    texts, tokens, positions = pack(LENGTHS)
    monkeypatch.setattr(llama, "_supports_logits_to_keep", lambda: False)
    wanted = logits(llama, tokens, positions, VarlenMetadata(LENGTHS), [4, 34])
    torch.testing.assert_close(wanted, separate(llama, texts)[[4, 34]], atol=1e-3, rtol=1e-4)


def test_the_metadata_is_asked_once_a_layer(llama):
    asked = []

    class Noted(VarlenMetadata):
        def attend(self, layer, *args):
            asked.append(layer)
            return super().attend(layer, *args)

    _, tokens, positions = pack(LENGTHS)
    forward(llama, tokens, positions, Noted(LENGTHS))
    assert asked == list(range(llama.config.num_hidden_layers))


# The model is left as it was


def test_the_models_own_attention_is_back_afterwards(llama):
    texts, tokens, positions = pack(LENGTHS)
    before = llama.config._attn_implementation, separate(llama, texts)
    forward(llama, tokens, positions, VarlenMetadata(LENGTHS))
    assert llama.config._attn_implementation == before[0]
    assert torch.equal(separate(llama, texts), before[1])


def test_the_models_own_attention_is_back_after_an_error(llama):
    texts, tokens, positions = pack(LENGTHS)
    before = separate(llama, texts)
    with (
        breaking(llama.model.layers[1], lambda inputs: True, RuntimeError("broken")),
        pytest.raises(RuntimeError, match="broken"),
    ):
        forward(llama, tokens, positions, VarlenMetadata(LENGTHS))
    assert torch.equal(separate(llama, texts), before)


# Which models can


@pytest.mark.parametrize("architecture", tiny.IN_FLIGHT)
def test_models_with_keys_and_values_pack(architecture: str):
    assert supports_packing(tiny.random_model(architecture))


@pytest.mark.parametrize("architecture", tiny.BATCHED)
def test_models_with_an_encoder_or_a_bias_for_the_distance_do_not(architecture: str):
    assert not supports_packing(tiny.random_model(architecture))


def test_a_model_that_keeps_a_state_does_not():
    config = transformers.MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=tiny.VOCABULARY)
    assert not supports_packing(transformers.MambaForCausalLM(config))


def test_a_model_whose_positions_turn_by_the_longest_sequence_does_not():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert not supports_packing(tiny.random_model("llama", rope_parameters=rope))
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    of_layers = {"full_attention": rope, "sliding_attention": plain}
    assert not supports_packing(tiny.random_model("gemma3", rope_parameters=of_layers))


def test_a_model_with_layers_of_another_kind_does_not():
    model = tiny.random_model("qwen3")
    model.config.layer_types = ["full_attention", "linear_attention"]
    assert not supports_packing(model)


def test_an_attention_that_metadata_cannot_express_says_so():
    function = transformers.AttentionInterface()["packed"]
    part = torch.zeros(1, 2, 3, 4)
    with pytest.raises(Unsupported, match="Module takes no packed rows"):
        function(torch.nn.Module(), part, part, part, None, attention_metadata=Nowhere(), position_bias=part)


def test_a_packed_pass_without_metadata_says_so():
    function = transformers.AttentionInterface()["packed"]
    part = torch.zeros(1, 2, 3, 4)
    with pytest.raises(Unsupported, match="takes no packed rows"):
        function(torch.nn.Module(), part, part, part, None)


# Who sees whom


@pytest.mark.parametrize(
    ("tokens", "keys", "window", "causal", "seen"),
    [
        (3, 3, None, True, ["100", "110", "111"]),
        (2, 4, None, True, ["1110", "1111"]),
        (4, 4, 2, True, ["1000", "1100", "0110", "0011"]),
        (2, 4, 2, True, ["0110", "0011"]),
        (1, 4, 3, True, ["0111"]),
        (3, 3, 2, False, ["110", "111", "011"]),
    ],
)
def test_a_mask_hides_what_is_behind_and_what_is_out_of_the_window(tokens, keys, window, causal, seen):
    mask = attention_mask(tokens, keys, AttentionParameters(None, window, None, causal), torch.empty(0))
    assert mask.shape == (1, 1, tokens, keys)
    assert ["".join("1" if value == 0 else "0" for value in row) for row in mask[0, 0].tolist()] == seen
    assert set(mask.unique().tolist()) <= {0.0, -torch.inf}


@pytest.mark.parametrize(
    ("tokens", "keys", "window", "causal"),
    [(1, 5, None, True), (1, 5, 5, True), (1, 5, 9, True), (3, 5, None, False), (3, 3, 3, False)],
)
def test_where_all_is_seen_there_is_no_mask(tokens: int, keys: int, window: int | None, causal: bool):
    assert (
        attention_mask(tokens, keys, AttentionParameters(None, window, None, causal), torch.empty(0)) is None
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_has_the_dtype_of_what_it_is_added_to(dtype: torch.dtype):
    mask = attention_mask(2, 3, AttentionParameters(None, None, None, True), torch.empty(0, dtype=dtype))
    assert mask.dtype == dtype
