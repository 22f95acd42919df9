"""Criteria, allocation, masks, surgery, verification."""

from neuroprune.pruning.allocate import allocate, build_plan
from neuroprune.pruning.criteria import CRITERIA
from neuroprune.pruning.cut import PruneResult, provable, prove, prune
from neuroprune.pruning.masks import Masks
from neuroprune.pruning.plan import AttributeEdit, GroupDecision, Plan, fingerprint
from neuroprune.pruning.restore import load_undo, restore, save_undo
from neuroprune.pruning.score import gather, saliencies, score
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.verify import Verification, verify

__all__ = [
    "CRITERIA",
    "AttributeEdit",
    "GroupDecision",
    "Masks",
    "Plan",
    "PruneResult",
    "Verification",
    "allocate",
    "apply",
    "build_plan",
    "fingerprint",
    "gather",
    "load_undo",
    "provable",
    "prove",
    "prune",
    "restore",
    "saliencies",
    "save_undo",
    "score",
    "verify",
]
