"""Qwen3 0.6B: a small chat model of 100 languages; here it answers at once, without thinking first."""

from adapters.hugging import HuggingAdapter as Base

MESSAGE = "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
# What its own template writes with enable_thinking=False: the thoughts are over before the answer begins.
ANSWER = r"{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}"
TEMPLATE = "{% for message in messages %}" + MESSAGE + "{% endfor %}" + ANSWER


class HuggingAdapter(Base):
    model_name = "Qwen/Qwen3-0.6B"
    defaults = {"chat_template": TEMPLATE, "max_new_tokens": 512, "embeddings_size": 1024}
