"""Blocks between images [N, C, 5, 5] and sequences [N, 25, C]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroprune.testing.blocks._base import SIDE, Block, Past, Site, on
from neuroprune.testing.blocks.image import IMAGE
from neuroprune.testing.blocks.sequence import SEQUENCE


@on(IMAGE)
class ToSequence(Block):
    """Pixels become tokens; ``choice`` says how that is written, and whether a layer follows."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.way = site.choice % 3
        self.layer = nn.Linear(site.channels, site.width) if site.choice % 2 else nn.Identity()

    def forward(self, x: Tensor, past: Past) -> Tensor:
        n, c, h, w = x.shape
        if self.way == 0:
            x = x.flatten(2).transpose(1, 2)
        elif self.way == 1:
            x = x.reshape(n, c, h * w).permute(0, 2, 1)
        else:
            x = x.movedim(1, -1).reshape(n, -1, c)
        found: Tensor = self.layer(x)
        return found


@on(SEQUENCE)
class ToImage(Block):
    """Tokens become pixels; the side of the image is an attribute."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.side, self.unflattens = SIDE, bool(site.choice % 2)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        if self.unflattens:
            return torch.unflatten(x.transpose(1, 2), 2, (self.side, self.side))
        n, _, c = x.shape
        return x.permute(0, 2, 1).reshape(n, c, self.side, self.side)
