"""Linear layers: the same product whatever kernel runs it, and exact where that is asked for."""

import pytest
import torch
from torch import Tensor

from specrouter_dist.engine import linear as linear_module
from specrouter_dist.engine.linear import (
    GroupedLinear,
    Linear,
    PackedLinear,
    PlainLinear,
    make_linear,
    rounds_rows_alike,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


class DependsOnRows(PlainLinear):
    """A kernel that rounds one way for up to 6 rows and another way for more."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight, None)
        self.calls: list[int] = []

    def __call__(self, rows: Tensor) -> Tensor:
        self.calls.append(len(rows))
        return super().__call__(rows) * (1.0 if len(rows) <= 6 else 1.0 + 1e-6)

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        return residual + self(rows)


def kinds(weight: Tensor, bias: Tensor | None) -> list[Linear]:
    made: list[Linear] = [kind(weight, bias) for kind in (PlainLinear, PackedLinear)]
    return [*made, GroupedLinear(made[0], 4, 4), GroupedLinear(made[0], 8, 4)]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("num_rows", [1, 3, 4, 9])
def test_every_kind_is_the_same_layer(with_bias: bool, num_rows: int) -> None:
    weight, rows = torch.randn(30, 20), torch.randn(num_rows, 20)
    bias = torch.randn(30) if with_bias else None
    residual = torch.randn(num_rows, 30)
    product = rows.double() @ weight.double().t()
    expected = (product + bias if bias is not None else product).float()
    with torch.inference_mode():
        for linear in kinds(weight, bias):
            torch.testing.assert_close(linear(rows), expected)
            before = residual.clone()
            torch.testing.assert_close(linear.add_to(residual, rows), residual + expected)
            assert torch.equal(residual, before)
            assert linear.weight_bytes == 30 * 20 * 4


def test_the_probe_sees_a_kernel_that_depends_on_the_number_of_rows() -> None:
    weight = torch.randn(30, 20)
    assert rounds_rows_alike(PackedLinear(weight, None), 20, weight)
    assert not rounds_rows_alike(DependsOnRows(weight), 20, weight)


class RarelyDepends:
    """A kernel that, from 40 rows on, rounds one result in ``every`` in another way."""

    def __init__(self, weight: Tensor, every: int) -> None:
        self._weight = weight.double()
        self._every = every

    def __call__(self, rows: Tensor) -> Tensor:
        return self._blurred(rows.double() @ self._weight.T)

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        return self._blurred(residual.double() + rows.double() @ self._weight.T)

    def _blurred(self, exact: Tensor) -> Tensor:
        # From doubles, which hide what the library's own kernels do. What is rare depends on the
        # value alone, as with real rounding.
        results = exact.float()
        is_rare = (results * 1e6).long() % self._every == 0
        return torch.where(is_rare & (len(results) >= 40), results * (1.0 + 1e-6), results)


def test_the_probe_sees_what_happens_to_few_results() -> None:
    # So narrow that among 64 rows hardly any layer has a rare result.
    weights = [torch.randn(32, 96) for _ in range(8)]
    assert not any(rounds_rows_alike(RarelyDepends(w, 6000), 96, w) for w in weights)
    assert all(rounds_rows_alike(RarelyDepends(w, 1 << 62), 96, w) for w in weights)


def test_groups_tame_such_a_kernel() -> None:
    weight, rows = torch.randn(30, 20), torch.randn(64, 20)
    untamed = DependsOnRows(weight)
    tamed = GroupedLinear(untamed, 4, 4)
    assert rounds_rows_alike(tamed, 20, weight)
    untamed.calls.clear()
    assert torch.equal(tamed(rows[:7]), tamed(rows)[:7])
    assert set(untamed.calls) == {4}
    assert torch.equal(tamed.add_to(rows[:7, :1], rows[:7]), rows[:7, :1] + tamed(rows[:7]))


class Counted:
    """Another kernel, and with how many rows it is called."""

    def __init__(self, inner: Linear | RarelyDepends) -> None:
        self._inner = inner
        self.weight_bytes = 0
        self.calls: list[int] = []

    def __call__(self, rows: Tensor) -> Tensor:
        self.calls.append(len(rows))
        return self._inner(rows)

    def add_to(self, residual: Tensor, rows: Tensor) -> Tensor:
        self.calls.append(len(rows))
        return self._inner.add_to(residual, rows)


def test_groups_are_as_large_as_the_kernel_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(288, 96)
    for inner, most_rows in ((RarelyDepends(weight, 6000), 32), (DependsOnRows(weight), 4)):
        kernel = Counted(inner)
        monkeypatch.setattr(linear_module, "PackedLinear", lambda *_, made=kernel: made)
        linear = make_linear(weight, None, exact=True)
        assert rounds_rows_alike(linear, 96, weight)
        kernel.calls.clear()
        linear(torch.randn(72, 96))
        assert max(kernel.calls) == most_rows and sum(kernel.calls) == 72


@pytest.mark.parametrize("num_rows", [8, 40, 64, 160])
def test_exact_layers_give_each_row_what_it_gets_among_four(num_rows: int) -> None:
    for out_features, in_features in ((288, 768), (768, 288), (864, 288)):
        weight = torch.randn(out_features, in_features).bfloat16()
        linear = make_linear(weight, None, exact=True)
        rows = torch.randn(1600, in_features).bfloat16()
        residual = torch.randn(1600, out_features).bfloat16()
        few, many = (
            torch.cat(
                [
                    linear.add_to(before, some)
                    for before, some in zip(residual.split(size), rows.split(size), strict=True)
                ]
            )
            for size in (4, num_rows)
        )
        assert torch.equal(few, many)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_layers_round_rows_alike(dtype: torch.dtype) -> None:
    for sizes in ((288, 768), (1024, 1500), (64, 2048)):
        weight = torch.randn(*sizes, dtype=dtype)
        linear = make_linear(weight, None, exact=True)
        assert rounds_rows_alike(linear, sizes[1], weight)
