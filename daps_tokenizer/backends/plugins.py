"""Plugin execution providers of ONNX Runtime: packages that are installed next to ``onnxruntime`` and replace nothing.

Their names begin with ``onnxruntime-ep-``, and their module says by ``get_ep_name()`` and ``get_library_path()`` what
to register. So a plugin that is not known here can be used too, by the name of its provider.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
import threading
from dataclasses import dataclass
from typing import Any

from daps_tokenizer.errors import BackendError, first_line
from daps_tokenizer.install import install_command

# What users call a device, which is also the extra of this package that installs its plugin.
PROVIDERS = {"tensorrt-rtx": "NvTensorRTRTXExecutionProvider", "webgpu": "WebGpuExecutionProvider"}
_PACKAGES = {"tensorrt-rtx": "onnxruntime-ep-nv-tensorrt-rtx", "webgpu": "onnxruntime-ep-webgpu"}  # begin like this
# What a plugin wants of the machine, where ONNX Runtime only says that there is no device.
_NEEDS = {
    "tensorrt-rtx": "an NVIDIA GPU of the RTX 30 series or later and its driver",
    "webgpu": "a GPU and, on Linux, the Vulkan loader (libvulkan.so.1) and the GPU's Vulkan driver",
}
_PREFIX = "onnxruntime-ep-"
_lock = threading.Lock()
_registered: dict[str, str] = {}  # a process registers a library once: its provider -> why that failed, or nothing


@dataclass(frozen=True)
class Plugin:
    """An installed package, its version and its module."""

    package: str
    version: str
    module: str

    @property
    def device(self) -> str:
        """What users call it: a short name where it has one here, else the provider's name."""
        known = (device for device, package in _PACKAGES.items() if self.package.startswith(package))
        return next(known, "") or self.provider

    @functools.cached_property
    def provider(self) -> str:
        """The execution provider's name; imports the package.

        Raises:
            BackendError: the package cannot be imported.
        """
        try:
            return str(importlib.import_module(self.module).get_ep_name())
        except Exception as error:  # whatever a package does when it is imported
            raise BackendError(f"the plugin {self.package} cannot be loaded: {first_line(error)}") from error


@functools.cache
def installed_plugins() -> tuple[Plugin, ...]:
    """All plugins that are installed, by name; none is imported."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.name or "").lower()
        if name.startswith(_PREFIX) and name not in found:
            modules = (distribution.read_text("top_level.txt") or name.replace("-", "_")).split()
            found[name] = Plugin(name, distribution.version, modules[0])
    return tuple(found[name] for name in sorted(found))


def find_plugin(device: str) -> Plugin | None:
    """The installed plugin for a device, by its short name or its provider's; None if there is none.

    Raises:
        BackendError: a plugin that may be the one cannot be imported.
    """
    device = next((short for short, provider in PROVIDERS.items() if provider == device), device)
    if device in PROVIDERS:  # known by the name of its package, so that no other is imported
        return next((p for p in installed_plugins() if p.package.startswith(_PACKAGES[device])), None)
    return next((plugin for plugin in installed_plugins() if plugin.provider == device), None)


def missing_plugin(device: str) -> BackendError:
    """What to say where the plugin of a device is not installed."""
    return BackendError(
        f"device {device!r} needs a plugin of ONNX Runtime, which is not installed; install it with "
        f"{install_command(device)}, or use device='cpu'"
    )


def plugin_devices(plugin: Plugin) -> list[Any]:
    """What a plugin can compute on here, as ONNX Runtime's ``OrtEpDevice``; its library is loaded at the first call.

    Raises:
        BackendError: the library cannot be loaded, or finds no device.
    """
    import onnxruntime

    provider = plugin.provider
    with _lock:
        if provider not in _registered:
            try:
                library = importlib.import_module(plugin.module).get_library_path()
                onnxruntime.register_execution_provider_library(provider, library)
                _registered[provider] = ""
            except Exception as error:  # ONNX Runtime's own types, or the package's where its library is not there
                _registered[provider] = re.sub(r"/\S*/", "", first_line(error))
    needs = _NEEDS.get(plugin.device, "a device that it knows and the device's driver")
    if reason := _registered[provider]:
        raise BackendError(f"the plugin {plugin.package} cannot be loaded ({reason}); it needs {needs}")
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
    if not devices:
        raise BackendError(f"the plugin {plugin.package} finds no device here; it needs {needs}")
    return devices


def is_hardware(device: Any) -> bool:
    """Whether a plugin's device is more than the CPU, on which software may stand in for a GPU."""
    return device.device.type.name != "CPU" and device.device.metadata.get("is_virtual") != "1"
