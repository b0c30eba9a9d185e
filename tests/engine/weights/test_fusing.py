"""Layers with the same input are fused: found in a trial run, and equal to the separate layers."""

import pytest
import torch
from torch import nn

from engine.weights.fusing import FusedProjection, fusable_groups, trace
from tests import tiny

pytestmark = pytest.mark.numeric

QKV, GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


def groups(model) -> set[tuple[str, ...]]:
    """The last part of the names of layers that share an input."""
    names = {module: name.split(".")[-1] for name, module in model.named_modules()}
    layers = [module for module in names if type(module) is nn.Linear]
    found = fusable_groups(model, trace(model, layers))
    assert sorted(map(id, layers)) == sorted(id(layer) for group in found for layer in group)
    assert not any(module._forward_pre_hooks for module in names)
    return {tuple(names[layer] for layer in group) for group in found if len(group) > 1}


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("llama", {QKV, GATE_UP}),
        ("phi3", set()),
        ("t5", {("q", "k", "v"), ("k", "v")}),
        ("bart", {QKV, QKV[1:]}),
    ],
)
def test_layers_that_read_one_tensor_are_found(architecture: str, expected: set):
    assert groups(tiny.random_model(architecture)) == expected


def test_a_layer_that_runs_twice_is_alone():
    model = tiny.random_model("llama")
    layers = model.model.layers
    for name in ("k_proj", "v_proj"):
        setattr(layers[1].self_attn, name, getattr(layers[0].self_attn, name))
    assert groups(model) == {GATE_UP}


class Three:
    """Three layers of different sizes, separate and fused."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layers = [nn.Linear(8, 4), nn.Linear(8, 6, bias=False), nn.Linear(8, 5)]
        self.projection = FusedProjection(self.layers)

    @torch.no_grad()
    def check(self, number: int, x: torch.Tensor) -> torch.Tensor:
        made = self.projection.run(number, x)
        torch.testing.assert_close(made, self.layers[number](x))
        return made


@pytest.fixture
def three() -> Three:
    return Three()


def test_a_product_gives_what_each_layer_gives(three: Three):
    for shape in ((8,), (3, 8), (2, 3, 8)):
        x = torch.randn(shape)
        assert len({three.check(number, x).untyped_storage().data_ptr() for number in range(3)}) == 1


@pytest.mark.parametrize("order", [(2, 1, 0), (0, 0, 1), (1,), (0, 1)])
def test_layers_may_be_asked_in_any_order_and_for_any_tensor(three: Three, order: tuple[int, ...]):
    for _ in range(2):
        x, other = torch.randn(3, 8), torch.randn(3, 8)
        for number in order:
            three.check(number, x)
            three.check(number, other)


def test_nothing_is_held_when_the_last_layer_has_run(three: Three):
    x = torch.randn(3, 8)
    for number in range(3):
        three.check(number, x)
    x.zero_()  # The same tensor with other numbers: what was made of it before is no answer.
    three.check(0, x)


def test_each_weight_is_given_back(three: Three):
    for number, layer in enumerate(three.layers):
        assert torch.equal(three.projection.unpack(number), layer.weight)
