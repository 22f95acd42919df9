"""Every registered one passes the contract."""

from __future__ import annotations

from neuroprune.devices import DEVICES
from neuroprune.testing import DeviceContract

for _name in DEVICES.names():
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (DeviceContract,), {"name": _name})
