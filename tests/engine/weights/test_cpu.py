"""What a CPU supports is measured: accuracy, and speed in CPU time of one thread."""

import pytest
import torch

from engine.weights import cpu
from engine.weights.cpu import is_accurate
from engine.weights.kernels import HALF_DTYPES, TorchKernel

pytestmark = pytest.mark.numeric


class Missing(TorchKernel):
    """A library that is missing."""

    def __init__(self, weight, bias):
        raise RuntimeError("needs the cpu support of something")


class Unready(TorchKernel):
    """A library that prepacks a weight but cannot multiply with it."""

    def __call__(self, x):
        raise RuntimeError("unsupported")


class Wrong(TorchKernel):
    def __call__(self, x):
        return super().__call__(x) * 1.02


class WrongBeyondOne(TorchKernel):
    """Right for one row, not for several."""

    def __call__(self, x):
        return super().__call__(x).roll(1, 0)


class NoNumbers(TorchKernel):
    def __call__(self, x):
        return super().__call__(x) * torch.nan


class Forgetful(TorchKernel):
    def unpack(self):
        return super().unpack().flip(0)


class Summed(TorchKernel):
    """Accumulates in the weight's dtype."""

    def __call__(self, x):
        total = torch.zeros(len(x), len(self._weight), dtype=self.dtype)
        for i in range(x.shape[1]):
            total += x[:, i : i + 1] * self._weight[:, i]
        return total


@pytest.fixture
def uncached():
    """Clears the cached results before and after a test."""
    cpu.computes_natively.cache_clear()
    yield
    cpu.computes_natively.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_as_torch_makes_it_is_accurate(dtype):
    assert is_accurate(TorchKernel, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_DTYPES])
@pytest.mark.parametrize(
    "kernel",
    [Missing, Unready, Wrong, WrongBeyondOne, NoNumbers, Forgetful],
    ids=lambda kernel: kernel.__name__,
)
def test_what_fails_or_is_wrong_is_not(kernel, dtype):
    assert not is_accurate(kernel, dtype)


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_sums_in_half_precision_are_not_right(dtype):
    assert not is_accurate(Summed, dtype)


@pytest.mark.parametrize(("speedup", "expected"), [(0.4, False), (1.0, False), (1.1, False), (1.4, True)])
def test_half_precision_is_multiplied_as_it_is_where_that_is_clearly_faster(
    monkeypatch, uncached, speedup: float, expected: bool
):
    monkeypatch.setattr(cpu, "_speedup", lambda one, other: speedup)
    assert cpu.computes_natively(torch.bfloat16) is expected


def test_half_precision_that_is_fast_and_wrong_is_not_multiplied_as_it_is(monkeypatch, uncached):
    monkeypatch.setattr(cpu, "_speedup", lambda one, other: 5.0)
    monkeypatch.setattr(cpu, "_native_kernel", lambda dtype: Wrong if dtype in HALF_DTYPES else TorchKernel)
    assert not cpu.computes_natively(torch.bfloat16)


def test_a_cpu_is_tried_once(monkeypatch, uncached):
    speedups = iter([5.0])
    monkeypatch.setattr(cpu, "_speedup", lambda one, other: next(speedups))
    assert cpu.computes_natively(torch.bfloat16) == cpu.computes_natively(torch.bfloat16)


def test_float32_is_never_in_question(monkeypatch, uncached):
    monkeypatch.setattr(cpu, "_speedup", None)
    assert cpu.computes_natively(torch.float32)


class Timed(TorchKernel):
    """Advances a clock by the given seconds, call by call, in a cycle."""

    def __init__(self, clock: list[float], *seconds: float):
        super().__init__(torch.ones(4, cpu._TIMED_SIZE), None)
        self._clock, self._seconds, self._calls = clock, seconds, 0

    def __call__(self, x):
        self._clock[0] += self._seconds[self._calls % len(self._seconds)]
        self._calls += 1
        return x


def test_a_gain_is_that_of_the_quickest_calls_whatever_else_runs(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(cpu.time, "thread_time", lambda: clock[0])
    busy = Timed(clock, 9.0, 1.0, 30.0), Timed(clock, 2.0, 7.0, 100.0, 2.0)
    assert cpu._speedup(*busy) == pytest.approx(2.0)


def test_trying_leaves_threads_and_chance_as_they_were():
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    is_accurate(TorchKernel, torch.bfloat16)
    cpu._speedup(*(TorchKernel(torch.ones(4, cpu._TIMED_SIZE), None) for _ in range(2)))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)
