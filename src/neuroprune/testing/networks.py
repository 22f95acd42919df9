"""Random networks out of operators, for property tests of the engine.

A network is drawn as a list of integers, so that a failing one shrinks to a short list and can be written
into a test. Every integer is a block: which one of the menu, and a number for it to choose by.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neuroprune.testing.blocks import HOSTILE, IMAGE, SEQUENCE, SIDE, Block, Maker, Site

#: blocks on the longest menu; genes below GENES reach every block with every choice
BLOCKS = max(len(IMAGE), len(SEQUENCE))
GENES = 6 * BLOCKS

#: wider than this, the next block is the first of the menu, which is narrow: networks stay small
WIDEST = 14

Output = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


class RandomNetwork(nn.Module):
    """The network that ``genes`` describe, out of supported operators alone.

    ``genes``: at least one integer >= 0, a block each. ``seed``: of its weights and buffers. Input
    [N, 3, 5, 5]; output [N, 3], for some genes in a dict or tuple with a second tensor.
    """

    def __init__(self, genes: Sequence[int], *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 4 + genes[0] % 5, 3, padding=1)
        self.tokens = genes[0] // BLOCKS % 2 == 1  # start as a sequence
        blocks: list[Block] = []
        with torch.no_grad():
            past = [self.begin(torch.zeros(2, 3, SIDE, SIDE))]
            for index, gene in enumerate(genes):
                site = Site(tuple(tuple(p.shape) for p in past), gene // BLOCKS + index)
                blocks.append(self.maker(site, gene)(site))
                past.append(blocks[-1](past[-1], past))
        self.blocks = nn.ModuleList(blocks)
        self.answer = sum(genes) % 8  # 6: two heads; 7: a hidden result as well; else one head
        self.middle = len(past) // 2
        self.head = nn.Linear(_width(past[-1]), 3)
        self.aside = nn.Linear(_width(past[self.middle]), 2) if self.answer == 6 else None
        _randomise(self)

    def maker(self, site: Site, gene: int) -> Maker:
        """Which block comes next."""
        menu = IMAGE if len(site.shapes[-1]) == 4 else SEQUENCE
        return menu[0 if site.channels > WIDEST else gene % len(menu)]

    def begin(self, x: Tensor) -> Tensor:
        """An image [N, C, 5, 5], or its pixels as tokens [N, 25, C]."""
        x = self.stem(x)
        return x.flatten(2).transpose(1, 2) if self.tokens else x

    def forward(self, x: Tensor) -> Output:
        past = [self.begin(x)]
        for block in self.blocks:
            past.append(block(past[-1], past))
        scores: Tensor = self.head(_pooled(past[-1]))
        if self.aside is not None:
            return {"scores": scores, "aside": self.aside(_pooled(past[self.middle]))}
        return (scores, past[self.middle]) if self.answer == 7 else scores


class AnyNetwork(RandomNetwork):
    """The same, but about one block in twelve is hostile: it must not be cut, or hides its sizes."""

    def maker(self, site: Site, gene: int) -> Maker:
        if site.choice % 12 == 3:
            return HOSTILE[gene % len(HOSTILE)]
        return super().maker(site, gene)


def _width(x: Tensor) -> int:
    return x.shape[1] if x.dim() == 4 else x.shape[2]


def _pooled(x: Tensor) -> Tensor:
    """[N, C]: the mean over the pixels of an image or the tokens of a sequence."""
    return x.mean((2, 3)) if x.dim() == 4 else x.mean(1)


def _randomise(model: nn.Module) -> None:
    """Norms of a fresh network are identities, which would hide mistakes."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LayerNorm)):
            for name in ("weight", "bias", "running_mean", "running_var"):
                tensor = getattr(module, name, None)
                if tensor is not None:
                    tensor.data.uniform_(0.5, 1.5)
