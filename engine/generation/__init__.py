"""Token ids in, sampled tokens and their log-probabilities out.

- `sampling`: where the next token is chosen; `penalties`: its logits processors
- `sequence`: the state of a sequence; `stopping`: the tokens that end it
- `generator`: continuous or static batching, by what the model supports (`support`)
- `continuous`: the scheduler of continuous batching: admit, prefill, decode, preempt
- `forward_batch`: one forward pass of it; `kv_cache`: keys and values of its sequences
- `batched`: static batching by transformers' `generate`, which `hf_generate` wraps
"""
