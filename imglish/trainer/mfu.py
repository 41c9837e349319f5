"""Model FLOPs utilisation: the formula and the table of peaks, in one place.

    utilisation(operations, seconds, DEVICES["a100-40gb"].peak("bf16"), devices=256)

Operations are those of `imglish.model.operations`: what the task needs, forward and backward, nothing that is computed
twice (PaLM's definition of MFU, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """An accelerator: a word of its name, dense peaks in operations a second, memory in bytes."""

    marker: str
    bf16: float
    fp32: float
    memory: float

    def peak(self, precision: str) -> float:
        return self.bf16 if precision == "bf16" else self.fp32


DEVICES = {
    "a100-40gb": Device("A100", 312e12, 19.5e12, 40e9),
    "a100-80gb": Device("A100", 312e12, 19.5e12, 80e9),
    "h100": Device("H100", 989e12, 67e12, 80e9),
    "h200": Device("H200", 989e12, 67e12, 141e9),
    "b200": Device("B200", 2250e12, 75e12, 180e9),
    "l40s": Device("L40S", 362e12, 91.6e12, 48e9),
    "l4": Device("L4", 121e12, 30.3e12, 24e9),
    "a10": Device("A10", 125e12, 31.2e12, 24e9),
    "rtx4090": Device("RTX 4090", 165e12, 82.6e12, 24e9),
    "rtx3090": Device("RTX 3090", 71e12, 35.6e12, 24e9),
}
"""Vendors' data sheets: tensor cores in bf16 without sparsity (SXM where there are several), plain cores in fp32."""


def peak_of(name: str, precision: str) -> float | None:
    """Peak of a device by the name that torch gives it; None when it is not in the table (CPUs never are)."""
    found = [device for device in DEVICES.values() if re.search(rf"\b{device.marker}\b", name)]
    return found[0].peak(precision) if found else None


def utilisation(operations: float, seconds: float, peak: float, devices: int) -> float:
    """Share of what `devices` could have done in `seconds`."""
    return operations / (seconds * peak * devices)
