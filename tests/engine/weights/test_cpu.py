"""What a CPU does is found out by trying it: results, and one thread's own time."""

import pytest
import torch

from engine.weights import cpu as machine
from engine.weights.cpu import is_right
from engine.weights.kernels import HALF, Dense

pytestmark = pytest.mark.numeric


class Missing(Dense):
    """A library that is not there."""

    def __init__(self, weight, bias):
        raise RuntimeError("needs the cpu support of something")


class Unready(Dense):
    """A library that lays out what it cannot multiply."""

    def __call__(self, x):
        raise RuntimeError("unsupported")


class Wrong(Dense):
    def __call__(self, x):
        return super().__call__(x) * 1.02


class WrongBeyondOne(Dense):
    """Right for one row, not for several."""

    def __call__(self, x):
        return super().__call__(x).roll(1, 0)


class NoNumbers(Dense):
    def __call__(self, x):
        return super().__call__(x) * torch.nan


class Forgetful(Dense):
    def dense(self):
        return super().dense().flip(0)


class Summed(Dense):
    """Sums in the dtype itself."""

    def __call__(self, x):
        total = torch.zeros(len(x), len(self._weight), dtype=self.dtype)
        for i in range(x.shape[1]):
            total += x[:, i : i + 1] * self._weight[:, i]
        return total


@pytest.fixture
def asked_anew():
    """Nothing is known of this CPU yet, and nothing found out here is remembered."""
    machine.multiplies.cache_clear()
    yield
    machine.multiplies.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_as_torch_makes_it_is_right(dtype):
    assert is_right(Dense, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize(
    "kernel",
    [Missing, Unready, Wrong, WrongBeyondOne, NoNumbers, Forgetful],
    ids=lambda kernel: kernel.__name__,
)
def test_what_fails_or_is_wrong_is_not(kernel, dtype):
    assert not is_right(kernel, dtype)


@pytest.mark.parametrize("dtype", HALF)
def test_sums_in_half_precision_are_not_right(dtype):
    assert not is_right(Summed, dtype)


@pytest.mark.parametrize(("gain", "expected"), [(0.4, False), (1.0, False), (1.1, False), (1.4, True)])
def test_half_precision_is_multiplied_as_it_is_where_that_is_clearly_faster(
    monkeypatch, asked_anew, gain: float, expected: bool
):
    monkeypatch.setattr(machine, "_gain", lambda one, other: gain)
    assert machine.multiplies(torch.bfloat16) is expected


def test_half_precision_that_is_fast_and_wrong_is_not_multiplied_as_it_is(monkeypatch, asked_anew):
    monkeypatch.setattr(machine, "_gain", lambda one, other: 5.0)
    monkeypatch.setattr(machine, "_fastest", lambda dtype: Wrong if dtype in HALF else Dense)
    assert not machine.multiplies(torch.bfloat16)


def test_a_cpu_is_tried_once(monkeypatch, asked_anew):
    gains = iter([5.0])
    monkeypatch.setattr(machine, "_gain", lambda one, other: next(gains))
    assert machine.multiplies(torch.bfloat16) == machine.multiplies(torch.bfloat16)


def test_float32_is_never_in_question(monkeypatch, asked_anew):
    monkeypatch.setattr(machine, "_gain", None)
    assert machine.multiplies(torch.float32)


class Timed(Dense):
    """Takes so many seconds of a clock: call by call, over and over."""

    def __init__(self, clock: list[float], *seconds: float):
        super().__init__(torch.ones(4, machine._SIZE), None)
        self._clock, self._seconds, self._calls = clock, seconds, 0

    def __call__(self, x):
        self._clock[0] += self._seconds[self._calls % len(self._seconds)]
        self._calls += 1
        return x


def test_a_gain_is_that_of_the_quickest_calls_whatever_else_runs(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(machine.time, "thread_time", lambda: clock[0])
    busy = Timed(clock, 9.0, 1.0, 30.0), Timed(clock, 2.0, 7.0, 100.0, 2.0)
    assert machine._gain(*busy) == pytest.approx(2.0)


def test_trying_leaves_threads_and_chance_as_they_were():
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    is_right(Dense, torch.bfloat16)
    machine._gain(*(Dense(torch.ones(4, machine._SIZE), None) for _ in range(2)))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
