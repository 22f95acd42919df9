"""Every registered one passes the contract."""

from __future__ import annotations

from neuroprune.export import EXPORTS
from neuroprune.testing import ExportContract

for _name in EXPORTS.names():
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (ExportContract,), {"name": _name})
