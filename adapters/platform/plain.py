"""Plain items on the platform: their template, the labels of a recipe, and prompt items made of them."""

from collections.abc import Iterable, Mapping
from typing import Any

from adapters.hugging import HuggingAdapter
from adapters.items.plain import PromptTemplate
from adapters.platform import prompt_items, recipes, remote
from adapters.platform.progress import RunProgress
from adapters.platform.recipes import RECIPE
from engine.configuration import override
from engine.errors import ConfigurationError
from engine.options import AdapterOptions


class PlainItemsAdapter:
    """The part of `ModelAdapter` that knows of plain items."""

    adapter: Any
    # Whether the labels are those of a dataset's recipe.
    _recipe = False

    def create_prompt_items(
        self,
        dataset: Any,
        filters: Any = None,
        prompt_template: str | None = None,
        labels: Any = None,
        progress: Any = None,
    ) -> Any:
        """Makes a prompt item of each text item of a dataset that a filter selects.

        Args:
            prompt_template: by default the configured one.
            labels: likewise; "recipe" for those of the dataset's recipe.
            progress: a `dl.Progress`.

        Raises:
            ConfigurationError: there is no template.
            CreationError: at the end, if some items have no prompt item; those of all others are there.
        """
        options = self._with_labels({} if labels is None else {"labels": labels}, [dataset.id])
        chosen = override(self._options(), {"prompt_template": prompt_template})
        template = self._template(chosen, options)
        if template is None:
            raise ConfigurationError(
                "option 'prompt_template' is needed: set it to a text such as \"Is it? {text}\""
            )
        query = remote.filters(filters).prepare()
        shown = RunProgress(remote.count(dataset.id, query), progress, "making prompt items")
        prompt_items.create(dataset, remote.pages(dataset.id, query), template, shown)
        return dataset

    def _with_labels(self, options: dict[str, Any], dataset_ids: Iterable[str]) -> dict[str, Any]:
        """Options of a run, with the labels of the datasets' recipe where they are asked for."""
        if options.get("labels", RECIPE if self._recipe else None) != RECIPE:
            return options
        return {**options, "labels": recipes.labels(dataset_ids)}

    def _template(self, chosen: AdapterOptions, options: Mapping[str, Any]) -> PromptTemplate | None:
        """Makes prompt items of other items, if the options say how.

        Args:
            options: generation options of a run.
        """
        labels = options.get("labels")
        if labels is None and isinstance(self.adapter, HuggingAdapter):
            labels = self.adapter.configuration.generation.labels
        return PromptTemplate.of(chosen.prompt_template, labels)

    def _options(self) -> AdapterOptions:
        raise NotImplementedError  # `ModelAdapter` has it.
