"""The modules: they are the ops, with parameters."""

from __future__ import annotations

import pytest
import torch

import lada_ext
from lada_ext.nn import BetaMix


class TestBetaMix:
    def test_is_beta_mix_pairs(self) -> None:
        h, pairs, key = torch.randn(6, 4), torch.tensor([[0, 1], [3, 3], [5, 0]]), lada_ext.make_key(3)
        mixed, lam, returned = BetaMix(0.4, samples=2)(h, pairs, key)
        expected, weights = lada_ext.beta_mix_pairs(h, pairs, 0.4, 2, key)
        torch.testing.assert_close((mixed, lam), (expected, weights))
        assert returned is pairs

    def test_partners_and_seed(self) -> None:
        h, layer = torch.randn(8, 3, 4, 4), BetaMix(1.0)
        torch.manual_seed(1)
        mixed, lam, pairs = layer(h)
        torch.manual_seed(1)
        again, _, _ = layer(h)
        other, _, _ = layer(h)
        assert torch.equal(mixed, again)
        assert not torch.equal(mixed, other)
        assert mixed.shape == h.shape
        assert lam.shape == (8,)
        assert pairs[:, 0].tolist() == list(range(8))
        assert sorted(pairs[:, 1].tolist()) == list(range(8))
        weight = lam[:, None, None, None]
        torch.testing.assert_close(mixed, weight * h + (1 - weight) * h[pairs[:, 1]])

    def test_learns_tau(self) -> None:
        """E[4 lam (1 - lam)] = 2 tau / (2 tau + 1) grows with tau: climbing it raises tau."""
        torch.manual_seed(0)
        layer = BetaMix(0.5, samples=50, learn=True)
        optimizer = torch.optim.SGD(layer.parameters(), lr=5.0)
        for _ in range(20):
            _, lam, _ = layer(torch.zeros(20, 1))
            optimizer.zero_grad()
            (-4 * lam * (1 - lam)).mean().backward()
            optimizer.step()
        assert layer.log_tau.exp() > 2

    def test_fixed_tau_is_no_parameter(self) -> None:
        layer = BetaMix(2.0)
        assert list(layer.parameters()) == []
        assert layer.state_dict() == {}
        assert repr(layer) == "BetaMix(tau=2, samples=None, grad='implicit')"

    @pytest.mark.parametrize("learn", [False, True])
    def test_it_can_be_made_without_memory(self, learn: bool) -> None:
        """As frameworks do that divide a model over devices: on the meta device, then with memory, then filled."""
        with torch.device("meta"):
            layer = BetaMix(0.4, learn=learn)
        layer.to_empty(device="cpu")
        layer.reset_parameters()
        h, pairs, key = torch.randn(3, 5), torch.tensor([[0, 1], [2, 0]]), lada_ext.make_key(1)
        assert torch.equal(layer(h, pairs, key)[1], BetaMix(0.4, learn=learn)(h, pairs, key)[1])

    def test_weights_of_a_fixed_tau_are_plain_numbers(self) -> None:
        """Also where features have a gradient: keeping lam keeps no graph."""
        mixed, lam, _ = BetaMix(0.4)(torch.randn(4, 3, requires_grad=True))
        assert mixed.requires_grad
        assert not lam.requires_grad

    def test_it_can_be_looked_at_without_memory(self) -> None:
        assert "tau=0.4" in repr(lada_ext.nn.BetaMix(0.4, learn=True).to("meta"))

    def test_compiled_autograd(self) -> None:
        h, pairs, key = torch.randn(4, 3), torch.tensor([[0, 1], [2, 0]]), lada_ext.make_key(1)
        eager, compiled = (h.clone().requires_grad_() for _ in range(2))
        BetaMix(0.4)(eager, pairs, key)[0].sum().backward()
        loss = BetaMix(0.4)(compiled, pairs, key)[0].sum()
        with torch._dynamo.config.patch(compiled_autograd=True):
            torch.compile(lambda: loss.backward(), backend="eager")()  # noqa: PLW0108 - it compiles functions alone
        torch.testing.assert_close(compiled.grad, eager.grad)

    def test_errors(self) -> None:
        for samples in (0, 2.5):
            with pytest.raises(ValueError, match=f"samples must be an int of at least 1, or None, got {samples}"):
                BetaMix(samples=samples)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"BetaMix: h must have shape \(B, ...\), got a scalar"):
            BetaMix()(torch.tensor(1.0))
        with pytest.raises(TypeError, match="BetaMix: h must be a tensor, got NoneType"):
            BetaMix()(None)
        with pytest.raises(ValueError, match="BetaMix: grad must be 'implicit' or 'pathwise', got 'foo'"):
            lada_ext.nn.BetaMix(grad="foo")  # type: ignore[arg-type]
        for bad in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="BetaMix: tau must be positive"):
                BetaMix(bad)
