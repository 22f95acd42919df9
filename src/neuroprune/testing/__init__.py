"""Contract tests and the exactness oracle, usable by third parties."""

from neuroprune.testing.allocation_contract import AllocationContract
from neuroprune.testing.budget_contract import BudgetKindContract
from neuroprune.testing.contracts import DeviceContract, ExportContract
from neuroprune.testing.criterion_contract import CriterionContract
from neuroprune.testing.oracle import assert_exact
from neuroprune.testing.precision_contract import CalibrationContract, PrecisionContract
from neuroprune.testing.strategy_contract import StrategyContract
from neuroprune.testing.technique_contract import TechniqueContract

__all__ = [
    "AllocationContract",
    "BudgetKindContract",
    "CalibrationContract",
    "CriterionContract",
    "DeviceContract",
    "ExportContract",
    "PrecisionContract",
    "StrategyContract",
    "TechniqueContract",
    "assert_exact",
]
