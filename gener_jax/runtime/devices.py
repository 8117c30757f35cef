"""Accelerators: their peak rates, memory and links."""

from typing import NamedTuple


class Device(NamedTuple):
    """Peak rates of a device, from its maker's data sheet."""

    tflops: float  # dense bfloat16, 10^12 operations per second
    memory_gib: float
    bandwidth: float | None  # 10^9 bytes per second of a GPU's memory; None: a TPU, of which no formula needs it
    link: float  # 10^9 bytes per second and direction to devices in the same group
    near: int  # devices per group, which share a switch; 0: the whole slice is one group
    far: float  # 10^9 bytes per second to devices of other groups, over the network
    names: tuple[str, ...]  # parts of jax's device kind


DEVICES = {
    # Of the HGX B200 with 1000 W: https://glennklockwood.com/garden/processors/B200 after NVIDIA's architecture brief,
    # the same rate in torchao's roofline (pytorch/ao, #4002). Memory as nvidia-smi reports it, 183359 MiB.
    "b200": Device(2250, 179.0, 8000, 900, 8, 50, ("NVIDIA B200",)),
    "h100": Device(989, 79.6, 3350, 450, 8, 50, ("H100",)),
    "h200": Device(989, 139.8, 4800, 450, 8, 50, ("H200",)),
    "a100": Device(312, 79.2, 2039, 300, 8, 25, ("A100",)),
    "l40s": Device(362, 44.4, 864, 32, 8, 12, ("L40S",)),
    "v4": Device(275, 32.0, None, 150, 0, 0, ("TPU v4",)),
    "v5e": Device(197, 16.0, None, 100, 0, 0, ("TPU v5 lite", "TPU v5e")),
    "v5p": Device(459, 95.0, None, 300, 0, 0, ("TPU v5p", "TPU v5")),
    "v6e": Device(918, 32.0, None, 224, 0, 0, ("TPU v6 lite", "TPU v6e")),
}


def device_of(kind: str) -> Device | None:
    """The entry of the table for the name that jax gives a device, or None."""
    found = [
        (len(name), device) for device in DEVICES.values() for name in device.names if name.lower() in kind.lower()
    ]
    return max(found, default=(0, None), key=lambda pair: pair[0])[1]
