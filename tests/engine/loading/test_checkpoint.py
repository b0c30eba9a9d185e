"""A checkpoint is that of its model, whole and in its shapes, or is refused by the names of its weights."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from engine.errors import LoadError
from engine.loading import Loaded, load
from engine.options import LoadOptions
from tests import tiny
from tests.helpers.model_folders import rewrite

Weights = dict[str, torch.Tensor]


def of_folder(folder: Path, task: str = "generate", **options) -> Loaded:
    return load(LoadOptions(model_name=str(folder), device="cpu", **options), task)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A tiny model's folder with its weights changed."""

    def change(change: Callable[[Weights], Weights], architecture: str = "llama", **config) -> Path:
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        tiny.save(folder, architecture, **config)
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})
        return folder

    return change


def without(*parts: str) -> Callable[[Weights], Weights]:
    return lambda weights: {
        name: weight for name, weight in weights.items() if not any(part in name for part in parts)
    }


@pytest.mark.parametrize("task", ["generate", "embed"])
@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_every_architectures_own_checkpoint_is_whole(tmp_path: Path, architecture: str, task: str, caplog):
    folder = tiny.save(tmp_path, architecture)
    model = of_folder(folder, task).model
    expected = tiny.random_model(architecture).state_dict()
    for name, weight in model.state_dict().items():
        whole = name if name in expected else f"{tiny.random_model(architecture).base_model_prefix}.{name}"
        assert torch.equal(weight, expected[whole])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5", "bart"])
def test_an_output_layer_that_is_the_embedding_is_no_missing_weight(tmp_path: Path, architecture: str):
    folder = tiny.save(tmp_path, architecture, tie_word_embeddings=True)
    model = of_folder(folder).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("task", ["generate", "embed"])
@pytest.mark.parametrize(
    ("architecture", "lost"),
    [
        ("llama", "layers.1.mlp"),
        ("llama", "layers.0.self_attn.q_proj"),
        ("llama", "model.norm"),
        ("llama", "embed_tokens"),
        ("gpt2", "h.1.ln_1.bias"),
        ("qwen3", "layers.1.self_attn.k_norm"),
        ("mistral", "layers.0.input_layernorm"),
        ("bloom", "h.0.self_attention.dense.bias"),
        ("t5", "encoder.block.1.layer.0.SelfAttention.v"),
        ("bart", "encoder.layers.1.fc1.weight"),
    ],
)
def test_weights_that_are_missing_are_named(changed: Callable, architecture: str, lost: str, task: str):
    folder = changed(without(lost), architecture)
    with pytest.raises(LoadError, match=rf"model has no weights for \S*{lost.removeprefix('model.')}"):
        of_folder(folder, task)


def test_of_many_weights_that_are_missing_the_first_are_named(changed: Callable):
    with pytest.raises(LoadError, match=r"no weights for (model\.layers\.1\S+, ){2}\S+ … \(9 in all\)"):
        of_folder(changed(without("layers.1.")))


@pytest.mark.parametrize("lost", ["experts.1.up_proj", "experts.3.down_proj", "experts", "mlp.gate."])
def test_an_expert_that_is_missing_is_named_by_its_layer(changed: Callable, lost: str):
    with pytest.raises(LoadError, match=r"model\.layers\..*\.mlp\.(experts|gate)"):
        of_folder(changed(without(lost), "qwen3_moe"))


def test_a_base_model_has_no_output_layer(tmp_path: Path):
    tiny.random_model("llama").model.save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(LoadError, match=r"has no weights for lm_head\.weight"):
        of_folder(tmp_path)
    assert of_folder(tmp_path, "embed").model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("declared", [True, False])
def test_a_reward_model_is_loaded_as_one_or_writes_no_text(tmp_path: Path, tied: bool, declared: bool):
    model = tiny.random_model("llama", tie_word_embeddings=tied, num_labels=1)
    transformers.LlamaForSequenceClassification(model.config).save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    if declared:
        assert of_folder(tmp_path).classifies
    else:
        rewrite(tmp_path, architectures=None)
        says = r"is a classifier \(score\.weight\)" if tied else r"has no weights for lm_head\.weight"
        with pytest.raises(LoadError, match=says):
            of_folder(tmp_path)
    assert not of_folder(tmp_path, "embed").classifies


def test_a_classifier_without_its_head_is_refused(tmp_path: Path):
    tiny.random_model("llama").save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    rewrite(tmp_path, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(LoadError, match=r"has no weights for score\.weight"):
        of_folder(tmp_path)


def test_a_masked_language_model_does_not_go_on_with_a_text(tmp_path: Path):
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    transformers.BertForMaskedLM(transformers.BertConfig(**size)).save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="is a BertForMaskedLM by its configuration"):
        of_folder(tmp_path)
    rewrite(tmp_path, is_decoder=True)
    assert type(of_folder(tmp_path).model) is transformers.BertLMHeadModel


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"intermediate_size": 48}, r"layers\.0\.mlp\.down_proj\.weight is 32×64 and not 32×48; .*in all"),
        ({"vocab_size": 300}, r"embed_tokens\.weight is 259×32 and not 300×32"),
    ],
    ids=str,
)
@pytest.mark.parametrize("task", ["generate", "embed"])
def test_weights_of_another_shape_are_named_with_both(tmp_path: Path, config: dict, says: str, task: str):
    folder = rewrite(tiny.save(tmp_path), **config)
    with pytest.raises(LoadError, match=rf"of another shape than its config\.json says: .*{says}"):
        of_folder(folder, task)


# Weights that nobody asked for


def added(*more: str) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: torch.ones(4) for name in more}


@pytest.mark.parametrize("task", ["generate", "embed"])
@pytest.mark.parametrize(
    "strange",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.mlp.up_proj.lora_A.weight",
        "model.layers.1.mlp.up_proj.weight_scale_inv",
        "model.norm.bias",
        "model.layers.2.input_layernorm.weight",
        "layers.2.input_layernorm.weight",
    ],
)
def test_weights_that_would_make_another_model_are_refused(changed: Callable, strange: str, task: str):
    with pytest.raises(LoadError, match=rf"weights that its config\.json leaves out \({strange}\)"):
        of_folder(changed(added(strange)), task)


def test_a_deeper_checkpoint_is_not_cut_to_its_configuration(tmp_path: Path):
    folder = rewrite(tiny.save(tmp_path), num_hidden_layers=1)
    for task in ("generate", "embed"):
        with pytest.raises(LoadError, match=r"leaves out \(model\.layers\.1\..* \(9 in all\)\)"):
            of_folder(folder, task)


@pytest.mark.parametrize(
    ("architecture", "strange"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("llama", "mtp.layers.0.mlp.up_proj.weight"),
        ("llama", "v_head.summary.weight"),
        ("gpt2", "transformer.h.0.attn.masked_bias"),
        ("bart", "model.decoder.version"),
    ],
)
def test_weights_beside_the_model_are_left_aside(changed: Callable, architecture: str, strange: str):
    assert of_folder(changed(added(strange), architecture)).model
    assert of_folder(changed(added(strange), architecture), "embed").model


def test_layers_that_guess_further_tokens_are_left_aside(changed: Callable):
    folder = changed(added("model.layers.2.input_layernorm.weight"))
    assert of_folder(rewrite(folder, num_nextn_predict_layers=1)).model


def test_what_is_left_aside_is_one_line_in_the_log(
    changed: Callable, caplog: pytest.LogCaptureFixture, capfd
):
    of_folder(changed(added("mtp.weight")))
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage().endswith("weights that are not used: mtp.weight")
    assert "LOAD REPORT" not in capfd.readouterr().err


# What may be missing


def test_a_buffer_that_follows_from_the_configuration_may_be_missing(changed: Callable):
    assert of_folder(changed(without("final_logits_bias"), "bart")).model


def test_a_buffer_that_is_learned_may_not_be_missing(tmp_path: Path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    heads = {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    config = transformers.DeepseekV3Config(
        **sizes,
        **heads,
        **experts,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        vocab_size=tiny.VOCABULARY,
    )
    transformers.DeepseekV3ForCausalLM(config).save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    assert of_folder(tmp_path).model
    file = tmp_path / "model.safetensors"
    save_file(without("e_score_correction_bias")(load_file(file)), file, {"format": "pt"})
    with pytest.raises(LoadError, match=r"no weights for .*e_score_correction_bias"):
        of_folder(tmp_path)


def test_positions_that_are_computed_need_no_weights(tmp_path: Path):
    config = transformers.MarianConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=tiny.VOCABULARY,
        pad_token_id=tiny.PAD,
        decoder_start_token_id=tiny.PAD,
    )
    whole = transformers.MarianMTModel(config)
    whole.save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    for task, prefix in (("generate", ""), ("embed", "model.")):
        found = of_folder(tmp_path, task).model.state_dict()
        assert all(torch.equal(weight, whole.state_dict()[prefix + name]) for name, weight in found.items())
