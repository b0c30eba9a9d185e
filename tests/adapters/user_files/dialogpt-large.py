# A model file as users of the earlier adapter wrote it: no base class, weights loaded in __init__, a loop
# over the batch, lists of dicts out. The test puts it into models/ as it is.
import dtlpy as dl
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class HuggingAdapter:
    def __init__(self, configuration):
        assert dl.__version__
        self.tokenizer = AutoTokenizer.from_pretrained("microsoft/DialoGPT-large", padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained("microsoft/DialoGPT-large")
        self.top_k = configuration.get("top_k", 5)

    def compute_confidence(self, input_ids):
        output = self.model(input_ids)
        probabilities = torch.softmax(output.logits[:, -1, :], dim=-1)
        return torch.topk(probabilities, self.top_k).values.sum()

    def predict(self, batch, **kwargs):
        annotations = []
        for item in batch:
            item_annotations = []
            for prompt_key, prompt_content in item["prompts"].items():
                chat_history_ids = torch.tensor([])
                for question in prompt_content.values():
                    new_input_ids = self.tokenizer.encode(
                        question["value"] + self.tokenizer.eos_token, return_tensors="pt"
                    )
                    bot_input_ids = (
                        torch.cat([chat_history_ids, new_input_ids], dim=-1)
                        if len(chat_history_ids)
                        else new_input_ids
                    )
                    chat_history_ids = self.model.generate(
                        bot_input_ids,
                        max_new_tokens=20,
                        do_sample=True,
                        top_k=self.top_k,
                        pad_token_id=self.tokenizer.eos_token_id,
                    )
                    response = self.tokenizer.decode(
                        chat_history_ids[:, bot_input_ids.shape[-1] :][0], skip_special_tokens=True
                    )
                    item_annotations.append(
                        {
                            "type": "text",
                            "label": "q",
                            "coordinates": response,
                            "metadata": {
                                "system": {"promptId": prompt_key},
                                "user": {
                                    "annotation_type": "prediction",
                                    "model": {
                                        "name": "DialoGPT-Large",
                                        "confidence": self.compute_confidence(new_input_ids),
                                    },
                                },
                            },
                        }
                    )
            annotations.append(item_annotations)
        return annotations
