"""Contract tests that every variant of a kind must pass; third parties subclass them for their own."""

from __future__ import annotations

import torch

from neuroprune.pruning.criteria import CRITERIA, Criterion, WeightView


class CriterionContract:
    """Subclass, set ``name`` to a registered criterion, and let pytest collect it."""

    name: str

    def criterion(self) -> Criterion:
        return CRITERIA.get(self.name)

    def view(self, *, rows: int = 6, seed: int = 0) -> WeightView:
        """A [rows, 5] weight (or a [rows] scale) with every statistic a criterion may ask for."""
        generator = torch.Generator().manual_seed(seed)
        shape = (rows,) if self.criterion().looks == "scales" else (rows, 5)
        return WeightView(
            "layer.weight",
            torch.randn(shape, generator=generator),
            torch.rand(shape[-1], generator=generator) + 0.1,
            torch.randn(shape, generator=generator),
            torch.Generator().manual_seed(seed),
        )

    def test_it_has_a_summary_and_a_source(self) -> None:
        entry = next(e for e in CRITERIA.entries() if e.name == self.name)
        assert entry.summary
        assert entry.source

    def test_saliency_has_the_shape_of_the_weight_and_is_finite_and_not_negative(self) -> None:
        view = self.view()
        saliency = self.criterion().saliency(view)
        assert saliency.shape == view.weight.shape
        assert bool(saliency.isfinite().all())
        assert bool((saliency >= 0).all())

    def test_it_is_deterministic_and_leaves_its_input_alone(self) -> None:
        view, again = self.view(), self.view()
        first = self.criterion().saliency(view)
        assert torch.equal(first, self.criterion().saliency(again))
        assert torch.equal(view.weight, self.view().weight)

    def test_permuting_the_rows_permutes_the_scores(self) -> None:
        if self.name == "random":
            return  # noise belongs to a place, not to a value
        view, order = self.view(), torch.tensor([3, 1, 5, 0, 2, 4])
        permuted = WeightView(
            view.name,
            view.weight[order],
            view.input_magnitude,
            None if view.gradient is None else view.gradient[order],
            view.generator,
        )
        if view.weight.dim() == 1 and view.input_magnitude is not None:
            permuted = WeightView(view.name, view.weight[order], None, permuted.gradient, view.generator)
        saliency = self.criterion().saliency
        assert torch.equal(saliency(view)[order], saliency(permuted))

    def test_a_zeroed_row_scores_lowest(self) -> None:
        if self.name == "random":
            return
        view = self.view()
        view.weight[2] = 0
        rows = self.criterion().saliency(view).reshape(6, -1).sum(1)
        assert int(rows.argmin()) == 2
