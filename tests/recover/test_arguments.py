"""Calls taken apart into examples and the rest, and put together again."""

from __future__ import annotations

from typing import Any

import torch

from neuroprune.recover.arguments import Arguments


def told(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def test_examples_are_told_from_the_rest_by_their_rows() -> None:
    x, mask, table = torch.arange(6.0).view(3, 2), torch.ones(3, 1), torch.ones(4, 2)
    call = Arguments.of((x, 2), {"mask": [mask, None], "table": table}, 3)
    assert [t.shape for t in call.examples] == [(3, 2), (3, 1)]
    args, kwargs = call.call(told, (x[:1], mask[:1]))
    assert torch.equal(args[0], x[:1])
    assert args[1] == 2
    assert torch.equal(kwargs["mask"][0], mask[:1])
    assert kwargs["mask"][1] is None
    assert torch.equal(kwargs["table"], table)


def test_calls_fit_where_only_the_examples_differ() -> None:
    one = Arguments.of((torch.zeros(3, 2), 1.0), {"table": torch.ones(4)}, 3)
    assert one.fits(Arguments.of((torch.ones(5, 2), 1.0), {"table": torch.ones(4)}, 5))
    assert not one.fits(Arguments.of((torch.ones(3, 2), 2.0), {"table": torch.ones(4)}, 3))
    assert not one.fits(Arguments.of((torch.ones(3, 2), 1.0), {"table": torch.zeros(4)}, 3))
    assert not one.fits(Arguments.of((torch.ones(3, 2), 1.0), {}, 3))
