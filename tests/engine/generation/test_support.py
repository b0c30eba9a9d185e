"""Support for continuous batching is tried: a model that does not support it is refused, with the reason."""

import pytest

from engine.errors import Unsupported
from engine.generation.support import check_continuous_batching
from tests import tiny
from tests.helpers.sequences import breaking

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("architecture", tiny.IN_FLIGHT)
def test_the_kv_cache_bytes_of_a_token_are_measured(architecture: str):
    model = tiny.random_model(architecture)
    config = model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert (
        check_continuous_batching(model, frozenset([tiny.EOS]))
        == 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    )


def test_a_checkpoints_rules_are_the_reason_that_is_given():
    model = tiny.random_model("llama")
    model.generation_config.min_new_tokens = 8
    with pytest.raises(Unsupported, match="forces or forbids tokens"):
        check_continuous_batching(model, frozenset([tiny.EOS]))


@pytest.mark.parametrize("architecture", tiny.BATCHED)
def test_an_attention_of_another_kind_is_the_reason_that_is_given(architecture: str):
    with pytest.raises(Unsupported, match="attention"):
        check_continuous_batching(tiny.random_model(architecture), frozenset())


def test_a_model_spread_over_devices_is_refused():
    model = tiny.random_model("llama")
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
    with pytest.raises(Unsupported, match="several devices"):
        check_continuous_batching(model, frozenset([tiny.EOS]))


def test_a_model_that_gives_other_logits_side_by_side_is_refused():
    model = tiny.random_model("llama")

    def look_around(_layer, args):
        """Each token takes the mean of all, as code may that knows of one sequence only."""
        return (args[0] + args[0].mean(1, keepdim=True),)

    model.model.layers[1].mlp.register_forward_pre_hook(look_around)
    with pytest.raises(Unsupported, match="other logits"):
        check_continuous_batching(model, frozenset([tiny.EOS]))


def test_a_model_that_fails_side_by_side_is_refused():
    model = tiny.random_model("llama")
    with (
        breaking(model, lambda inputs: "attention_metadata" in inputs, KeyError("cache")),
        pytest.raises(Unsupported, match="failed on a trial: KeyError: 'cache'"),
    ):
        check_continuous_batching(model, frozenset([tiny.EOS]))
