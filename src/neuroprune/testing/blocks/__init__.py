"""The menus that random networks are drawn from. Importing a file puts its blocks on them."""

from neuroprune.testing.blocks import attention, bridge
from neuroprune.testing.blocks._base import SIDE, Block, Maker, Menu, Site
from neuroprune.testing.blocks.hostile import HOSTILE
from neuroprune.testing.blocks.image import IMAGE
from neuroprune.testing.blocks.sequence import SEQUENCE

__all__ = ["HOSTILE", "IMAGE", "SEQUENCE", "SIDE", "Block", "Maker", "Menu", "Site", "attention", "bridge"]
