"""Criteria, allocation, masks, surgery, verification."""

from neuroprune.prune.allocate import allocate, build_plan
from neuroprune.prune.criteria import CRITERIA
from neuroprune.prune.cut import PruneResult, prove, prune
from neuroprune.prune.masks import Masks
from neuroprune.prune.plan import AttributeEdit, GroupDecision, Plan, fingerprint
from neuroprune.prune.restore import load_undo, restore, save_undo
from neuroprune.prune.score import gather, saliencies, score
from neuroprune.prune.surgery import apply
from neuroprune.prune.verify import Verification, verify

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
    "prove",
    "prune",
    "restore",
    "saliencies",
    "save_undo",
    "score",
    "verify",
]
