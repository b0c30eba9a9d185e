"""A tiny random model of every architecture that transformers writes text with: real classes, no download.

A configuration is the architecture's own default, each size in it replaced by a tiny one, by its name. There
is a layer of each kind that the default has, and every window is shorter than the longest texts of the tests.
"""

from dataclasses import fields

import torch
import transformers
from transformers import CONFIG_MAPPING, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from tests.tiny import BOS, EOS, PAD, VOCABULARY

WINDOW = 16
# Ends the name of the decoder that is otherwise a part of an encoder-decoder model.
DECODER = "-as-decoder"

_SIZES = {
    name: size
    for names, size in {
        # Windows, of tokens or of the likeliest tokens
        """attention_chunk_size attention_window attention_window_size index_topk keep_window_size
        local_attention local_attention_window_len position_bias_max_distance rel_extent
        relative_attention_max_distance relative_max_distance sliding_window sliding_window_size
        window_size""": WINDOW,
        # Lengths and vocabularies
        """context_length max_decoder_position_embeddings max_encoder_position_embeddings
        max_position_embeddings max_seq_len max_source_positions max_target_positions n_ctx n_positions
        original_max_position_embeddings t2u_max_position_embeddings""": 512,
        "src_vocab_size tgt_vocab_size unpadded_vocab_size vocab_size vocab_size_per_layer_input": VOCABULARY,
        # Widths
        "d_model emb_dim embed_dim embedding_size hidden_size hidden_size_global n_embd": 32,
        """d_ff d_inner decoder_ffn_dim dense_intermediate_size dff dim_ff encoder_ffn_dim feed_forward_size
        ffn_dim ffn_hidden_size intermediate_size intermediate_size_mlp mamba_d_ssm mlp_dim
        shared_intermediate_size speech_encoder_intermediate_size t2u_decoder_ffn_dim
        t2u_encoder_ffn_dim""": 64,
        """expert_ffn_hidden_size gated_norm_rank hc_lowrank kv_lora_rank laurel_rank mamba_head_dim
        moe_intermediate_size moe_shared_expert_intermediate_size o_lora_rank q_lora_rank
        shared_expert_intermediate_size shared_experts_intermediate_size""": 16,
        """attention_head_size block_multiple_of block_size chunk_size d_kv d_rel dim_head head_dim
        hidden_size_per_layer_input index_block_size index_head_dim kv_channels linear_head_dim
        linear_key_head_dim linear_value_head_dim local_attn_chunk_length local_radius
        lsh_attn_chunk_length mamba_chunk_size mamba_d_state num_buckets position_bias_num_buckets
        qk_nope_head_dim query_pre_attn_scalar relative_attention_num_buckets ssm_state_size state_size
        swa_head_dim v_head_dim""": 8,
        "qk_rope_head_dim rotary_dim": 4,
        # Counts
        """attention_heads decoder_attention_heads encoder_attention_heads linear_num_heads
        linear_num_value_heads mamba_n_heads mamba_num_heads moe_num_experts n_head n_heads n_mamba_heads
        n_routed_experts num_attention_heads num_decoder_attention_heads num_encoder_attention_heads
        num_experts num_heads num_local_experts speech_encoder_attention_heads swa_num_attention_heads
        t2u_decoder_attention_heads t2u_encoder_attention_heads zero_expert_num""": 4,
        """altup_num_inputs decoder_layers depth encoder_layers hc_count hc_mult index_n_heads kv_n_heads
        linear_num_key_heads moe_k moe_num_shared_experts moe_top_k moe_topk n_layer n_layers
        n_shared_experts num_decoder_layers num_encoder_layers num_experts_per_tok num_hidden_layers
        num_key_value_heads num_layers num_shared_experts speech_encoder_layers swa_num_key_value_heads
        t2u_decoder_layers t2u_encoder_layers""": 2,
        """first_k_dense_replace mamba_n_groups mamba_ngroups max_window_layers moe_layer_start_index n_group
        n_groups num_dense_layers o_groups topk_group""": 1,
        "num_kv_shared_layers num_nextn_predict_layers": 0,
    }.items()
    for name in names.split()
}
# Set also where the default is None or False: else no layer would have a window.
_WINDOWS = {"sliding_window": WINDOW, "use_sliding_window": True}
_LAYERS = {"indexer_types", "layer_types", "layers_block_type", "mlp_layer_types"}
_START = "decoder_start_token_id"

_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
_SHARING = {"num_hidden_layers": 4, "num_kv_shared_layers": 2}
_CONV = {"layer_types": ["conv", "full_attention"]}
_HYBRID = {"layers_block_type": ["linear_attention", "hybrid"], "num_hidden_layers": 4}
_ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2}

# What the rule alone does not make: by the type of the model's or the part's configuration.
_CHANGES: dict[str, dict] = {
    "bamba": {"attn_layer_indices": [1], "num_hidden_layers": 3},
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"block_size": 4, "num_random_blocks": 1},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere2_moe": {"mlp_layer_types": ["dense", "sparse"]},
    "cohere_compass_text": _SLIDING
    | {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
            for kind in _SLIDING["layer_types"]
        }
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "deepseek_v4": {
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "layer_types": ["sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention"],
    },
    "doge": {"is_moe": True},
    "dots1": _ROUTED | _SLIDING,
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    "dots3_note_text": {
        f"swa_{name}": size
        for name, size in {
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "head_dim": 12,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        }.items()
    },
    "dots3_note_vision_encoder": {"adapter_in_dim": 32, "adapter_out_dim": 32},
    "encoder-decoder": {"decoder": {"is_decoder": True, "add_cross_attention": True}},
    "gemma3n_text": _SHARING,
    "gemma4_text": _SHARING
    | {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
    "gemma4_unified_text": _SHARING,
    "got_ocr2": {"vision_config": {"image_size": 32, "output_channels": 8}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite_speech_encoder": {"hidden_dim": 32},
    "granite_speech_plus_encoder": {"hidden_dim": 32},
    "granitemoehybrid": _LINEAR,
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"num_hidden_layers": 3, "attn_layer_period": 2, "attn_layer_offset": 1},
    "laguna": _SLIDING,
    "lfm2": _CONV,
    "lfm2_moe": _CONV,
    "llama4_text": {"moe_layers": [1]},
    "mamba2": {"head_dim": 16},
    "mellum": _SLIDING,
    "minimax": _LINEAR,
    "minimax_m3_vl_text": {
        "layer_types": ["minimax_m3_sparse", "full_attention"],
        "mlp_layer_types": ["dense", "sparse"],
        "index_topk_blocks": 2,
    },
    "ministral": _SLIDING | {"head_dim": 8},
    "mllama_text_model": {"cross_attention_layers": [1], "num_hidden_layers": 3},
    "nemo_speechlm": {"word_timestamp_config": {"vocab_size": VOCABULARY, "blank_token_id": EOS}},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron3_diarization": {"head_config": {"audio_hidden_size": 32}},
    "nllb-moe": {"encoder_sparse_step": 2, "decoder_sparse_step": 2},
    "phi4_multimodal_audio": {"num_blocks": 1, "ext_pw_out_channel": 32, "nemo_conv_channels": 32},
    "qwen3_asr_encoder": {"downsample_hidden_size": 8},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": WINDOW,
        "indexer_compress_ratio": 4,
        "ple_layer_ids": [1],
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 64,
    },
    "recurrent_gemma": {"num_hidden_layers": 3, "num_key_value_heads": 1},
    "reformer": {
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local", "lsh"],
        "num_buckets": 4,
        "hash_seed": 0,
    },
    "roc_bert": {"pronunciation_vocab_size": 16, "shape_vocab_size": 16, "shape_embed_dim": 16},
    "smollm3": _SLIDING,
    "switch_transformers": {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 2, "downsampling_ratios": [2]},
    "xlstm": {"hidden_size": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": _HYBRID,
    "zamba2": _HYBRID,
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid", "hybrid_sliding"]},
}

# No tiny model can be made of these, or none that answers a text: why.
LEFT_OUT: dict[str, str] = {
    "gemma3n": "the package timm is needed",
    "gemma4_assistant": "drafts for another model, from its states",
    "musicgen": "writes audio, no text",
    "musicgen_melody": "writes audio, no text",
}


def _config(
    cls: type[PretrainedConfig], changes: dict | None = None, decoder: bool = False
) -> PretrainedConfig:
    """A configuration of a class, tiny in all its parts."""
    changes = _CHANGES.get(cls.model_type, {}) | (changes or {})
    defaults = {field.name: field.default for field in fields(cls)}
    values = {name: size for name, size in _SIZES.items() if type(defaults.get(name)) is int}
    values |= {name: value for name, value in _WINDOWS.items() if name in defaults}
    if "kv_lora_rank" in defaults:  # Multi-head latent attention: its heads share nothing.
        values |= {"num_key_value_heads": 4, "head_dim": 4}
    if defaults.get(_START) is not None:
        values[_START] = EOS
    values |= {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    whole = vars(cls())
    parts = {name: part for name, part in whole.items() if isinstance(part, PretrainedConfig)}
    values |= {name: _config(type(part), changes.get(name)).to_dict() for name, part in parts.items()}
    values |= {name: value for name, value in changes.items() if name not in parts}
    if decoder and "is_decoder" in defaults:
        values["is_decoder"] = True
    kinds = {
        name: list(dict.fromkeys(values.get(name) or whole.get(name) or []))
        for name in _LAYERS & defaults.keys()
    }
    most = max([1, *map(len, kinds.values())])
    if most > 1:
        values["num_hidden_layers"] = changes.get("num_hidden_layers", most + 1)
        for name, found in kinds.items():
            if len(found) > 1:
                values[name] = [found[i % len(found)] for i in range(values["num_hidden_layers"])]
    return cls(**values)


def names() -> list[str]:
    """Every architecture; one that is both, a decoder alone and with its encoder, twice."""
    both = [
        f"{name}{DECODER}"
        for name, class_name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
        if MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.get(name, class_name) != class_name
    ]
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, *both})


def class_name(name: str) -> str:
    """The class of one of `names()`."""
    kind, seq2seq = _kind(name)
    table = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES if seq2seq else MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return table[kind]


def tiny_model(name: str, seed: int = 0) -> PreTrainedModel:
    """A model of one of `names()`, its random weights spread wide enough that answers differ.

    Answers run to their length: no token ends one, and the class's own rules and settings are left out.
    """
    kind, seq2seq = _kind(name)
    auto = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    torch.manual_seed(seed)
    model = auto.from_config(_config(CONFIG_MAPPING[kind], decoder=not seq2seq)).eval()
    with torch.no_grad():
        for label, weight in model.named_parameters():
            own = ".".join(label.lower().split(".")[-2:])  # In RoBERTa-PreLayerNorm all is within a "norm".
            if weight.dim() > 1 and "norm" not in own:
                weight.normal_(std=0.3)
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, pad_token_id=PAD, decoder_start_token_id=getattr(model.config, _START, None)
    )
    return model


def _kind(name: str) -> tuple[str, bool]:
    """The type of its configuration, and whether it is an encoder-decoder model."""
    kind = name.removesuffix(DECODER)
    return kind, kind == name and kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
