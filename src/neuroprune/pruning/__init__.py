"""Criteria, allocation, masks, surgery, verification."""

from neuroprune.graph.attributes import AttributeEdit
from neuroprune.pruning.allocate import allocate, build_plan
from neuroprune.pruning.block_scores import BLOCK_CRITERIA, block_criterion, block_scores
from neuroprune.pruning.blocks import Block, find_blocks
from neuroprune.pruning.bypass import Bypass
from neuroprune.pruning.criteria import CRITERIA
from neuroprune.pruning.cut import PruneResult, provable, prove, prune
from neuroprune.pruning.depth import combine, prune_depth
from neuroprune.pruning.exported import exported, save_exported
from neuroprune.pruning.head import Transferred, transfer
from neuroprune.pruning.masks import Masks
from neuroprune.pruning.plan import GroupDecision, Plan, fingerprint
from neuroprune.pruning.restore import load_undo, restore, save_undo
from neuroprune.pruning.score import gather, saliencies, score
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.verify import Verification, verify

__all__ = [
    "BLOCK_CRITERIA",
    "CRITERIA",
    "AttributeEdit",
    "Block",
    "Bypass",
    "GroupDecision",
    "Masks",
    "Plan",
    "PruneResult",
    "Transferred",
    "Verification",
    "allocate",
    "apply",
    "block_criterion",
    "block_scores",
    "build_plan",
    "combine",
    "exported",
    "find_blocks",
    "fingerprint",
    "gather",
    "load_undo",
    "provable",
    "prove",
    "prune",
    "prune_depth",
    "restore",
    "saliencies",
    "save_exported",
    "save_undo",
    "score",
    "transfer",
    "verify",
]
