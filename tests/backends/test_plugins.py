"""Plugin execution providers: found by the name of their package, refused with a reason, computing what the CPU does.

WebGPU's plugin is tried where it is installed and Chromium's Vulkan is there: software in place of a GPU.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from daps_tokenizer.backends import open_backend, plugins
from daps_tokenizer.backends.choice import BackendOnDevice
from daps_tokenizer.backends.gpus import Gpu, find_gpu
from daps_tokenizer.cli import doctor
from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import open_model
from tests.paths import ROOT

CHROMIUM = Path("/usr/lib/chromium")  # its libvulkan.so.1 and libvk_swiftshader.so
without_gpu = pytest.mark.skipif(find_gpu() is not None, reason="this machine has an NVIDIA GPU")


def run(program: str, *folders: Path, **environment: str) -> str:
    """What a program prints in a process of its own: a plugin is registered once a process."""
    path = os.pathsep.join([*map(str, folders), *(entry for entry in sys.path if entry), str(ROOT)])
    finished = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | environment | {"PYTHONPATH": path},
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def install(folder: Path, package: str, provider: str, library: str) -> Path:
    """A plugin package as pip lays it out."""
    module = folder / package.replace("-", "_")
    module.mkdir()
    (module / "__init__.py").write_text(
        f"def get_ep_name():\n    return {provider!r}\n\ndef get_library_path():\n    return {library!r}\n"
    )
    record = folder / f"{module.name}-1.5.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
    (record / "top_level.txt").write_text(module.name)
    return folder


OPEN = """
import sys
from daps_tokenizer.backends import open_backend
from daps_tokenizer.errors import BackendError
from daps_tokenizer.hub import open_model
try:
    open_backend(open_model("daps-mnist"), backend=sys.argv[1], device=sys.argv[2], dtype="float32")
except BackendError as error:
    print(error)
"""


def refusal(backend: str, device: str, folder: Path) -> str:
    return run(OPEN.replace("sys.argv[1]", repr(backend)).replace("sys.argv[2]", repr(device)), folder)


@pytest.mark.parametrize("backend", ["onnx", "auto"])
@pytest.mark.parametrize("device", ["tensorrt-rtx", "webgpu"])
def test_a_plugin_that_is_not_installed_names_the_extra(
    device: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "installed_plugins", lambda: ())
    with pytest.raises(BackendError, match=rf"device '{device}' needs a plugin .* pip install .*\[{device}\]\""):
        open_backend(open_model("daps-mnist"), backend=backend, device=device, dtype="float32")


def test_a_device_that_nobody_knows_gets_the_devices_there_are() -> None:
    with pytest.raises(BackendError, match="knows no device 'abacus'; accepted are cpu, cuda, tensorrt-rtx, webgpu, "):
        open_backend(open_model("daps-mnist"), backend="onnx", device="abacus", dtype="float32")


def test_a_plugin_is_found_by_the_name_of_its_package_and_the_device_by_that_of_its_provider(tmp_path: Path) -> None:
    library = tmp_path / "libabacus.so"
    library.write_text("no library")
    install(tmp_path, "onnxruntime-ep-abacus", "AbacusExecutionProvider", str(library))
    listing = "from daps_tokenizer.backends.plugins import *; p = find_plugin('AbacusExecutionProvider')"
    assert run(f"{listing}; print(p.package, p.version, p.device)", tmp_path).split() == [
        "onnxruntime-ep-abacus",
        "1.5",
        "AbacusExecutionProvider",
    ]
    assert refusal("onnx", "AbacusExecutionProvider", tmp_path).startswith(
        "the plugin onnxruntime-ep-abacus cannot be loaded ("
    )


def test_a_plugin_whose_library_cannot_be_loaded_says_why_and_what_it_needs(tmp_path: Path) -> None:
    install(tmp_path, "onnxruntime-ep-webgpu", "WebGpuExecutionProvider", "/nowhere/libwebgpu.so")
    told = refusal("onnx", "webgpu", tmp_path)
    assert "the plugin onnxruntime-ep-webgpu cannot be loaded (" in told and "libwebgpu.so" in told
    assert "it needs a GPU and, on Linux, the Vulkan loader (libvulkan.so.1)" in told


def test_a_plugin_that_cannot_be_imported_is_a_backend_error(tmp_path: Path) -> None:
    install(tmp_path, "onnxruntime-ep-webgpu", "WebGpuExecutionProvider", "")
    (tmp_path / "onnxruntime_ep_webgpu" / "__init__.py").write_text("raise OSError('libcuda.so.1: not found')")
    assert "the plugin onnxruntime-ep-webgpu cannot be loaded: libcuda.so.1: not found" in refusal(
        "onnx", "webgpu", tmp_path
    )


@without_gpu
def test_auto_takes_the_cpu_without_a_warning_where_an_installed_plugin_finds_no_gpu(tmp_path: Path) -> None:
    install(tmp_path, "onnxruntime-ep-webgpu", "WebGpuExecutionProvider", "/nowhere/libwebgpu.so")
    program = """
from daps_tokenizer import Tokenizer
from daps_tokenizer.backends.choice import runtimes
print(Tokenizer.from_pretrained("daps-mnist").device)
print([runtime.missing for runtime in runtimes() if runtime.device == "webgpu"])
"""
    device, missing = run(program, tmp_path).splitlines()
    assert device == "cpu" and "the plugin onnxruntime-ep-webgpu cannot be loaded" in missing


# --- daps-tokenize doctor


DOCTOR = """
import json, sys
from click.testing import CliRunner
from daps_tokenizer.cli.main import main
result = CliRunner().invoke(main, ["doctor", "--json"])
print(json.dumps({"exit_code": result.exit_code} | json.loads(result.stdout)))
"""


def pretend_installed(folder: Path, package: str) -> None:
    """What pip records of a package, without the package."""
    record = folder / f"{package.replace('-', '_')}-1.2.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")


@pytest.fixture(scope="module")
def healthy() -> dict[str, object]:
    found: dict[str, object] = json.loads(run(DOCTOR))
    return found


@without_gpu
def test_doctor_says_what_works_here_and_why_auto_takes_it(healthy: dict[str, object]) -> None:
    assert healthy["exit_code"] == 0 and healthy["fix"] == [] and healthy["clash"] == ""
    rows = {(row["backend"], row["device"]): row for row in healthy["runtimes"]}  # type: ignore[attr-defined]
    assert rows["onnx", "cpu"]["works"] and "CPUExecutionProvider" in rows["onnx", "cpu"]["why"]
    assert rows["onnx", "cuda"] | {"works": False} == rows["onnx", "cuda"]
    assert rows["onnx", "tensorrt-rtx"]["why"] == "there is no NVIDIA GPU here"
    assert str(healthy["auto"]).startswith("onnx on cpu: the first that works, after torch on cuda, tensorrt on cuda")


@without_gpu
def test_doctor_finds_two_packages_in_one_folder_and_prints_the_command_that_mends_it(tmp_path: Path) -> None:
    packages = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
    for package in packages:
        pretend_installed(tmp_path, package)
    found = json.loads(run(DOCTOR, tmp_path))
    assert found["clash"].startswith(f"{' and '.join(packages)} write to one folder")
    assert found["exit_code"] == 1
    assert found["fix"] == [f"pip uninstall -y {' '.join(packages)} && pip install onnxruntime"]


@without_gpu
def test_doctor_leaves_two_packages_in_folders_of_their_own(tmp_path: Path) -> None:
    pretend_installed(tmp_path, "onnxruntime-gpu")  # as pip install --target has it
    found = json.loads(run(DOCTOR, tmp_path))
    assert (found["clash"], found["fix"], found["exit_code"]) == ("", [], 0)
    assert found["packages"]["onnxruntime-gpu"] == "1.2"


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("", r'^pip install .*\[torch\]"$'),
        ("2.13.0+cpu", r'^pip uninstall -y torch && pip install .*\[torch\]"$'),
        ("2.13.0", "^update the NVIDIA driver, or install the PyTorch that pytorch.org names for it: 2.13.0 fails"),
    ],
)
def test_doctor_says_what_puts_pytorch_on_a_gpu(version: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_gpu", lambda: Gpu("NVIDIA H200", (9, 0), (13, 0)))
    monkeypatch.setattr(doctor, "_packages", lambda: {"torch": version} if version else {})
    monkeypatch.setattr(doctor, "runtimes", lambda: [BackendOnDevice("onnx", "cpu", "onnxruntime 1")])
    (fix,) = doctor.examine()["fix"]
    assert re.search(told, fix)


@without_gpu
def test_a_folder_of_onnxruntime_that_is_half_removed_is_an_error_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    told = refusal("onnx", "cpu", tmp_path)
    assert "ONNX Runtime cannot be used (module 'onnxruntime' has no attribute 'get_available_providers')" in told
    assert "install it again with pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime" in told
    found = json.loads(run(DOCTOR, tmp_path))
    (row,) = [row for row in found["runtimes"] if (row["backend"], row["device"]) == ("onnx", "cpu")]
    assert not row["works"] and "ONNX Runtime cannot be used" in row["why"]
    assert found["exit_code"] == 1
    assert found["fix"] == ["pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"]


# --- the plugin itself


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM / "libvk_swiftshader.so").exists(), reason="Chromium's Vulkan is not installed")
def test_webgpu_has_the_codes_and_the_pixels_of_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime_ep_webgpu")
    driver = {"api_version": "1.0.5", "library_path": str(CHROMIUM / "libvk_swiftshader.so")}
    (tmp_path / "driver.json").write_text(json.dumps({"ICD": driver, "file_format_version": "1.0.0"}))
    program = """
import numpy as np
from daps_tokenizer import Tokenizer
images = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1)).astype(np.uint8)
tried, known = (Tokenizer.from_pretrained("daps-mnist", backend="onnx", device=device) for device in ("webgpu", "cpu"))
codes = tried.sample(images, num_samples=1, seed=0)
assert np.array_equal(codes.numpy(), known.sample(images, num_samples=1, seed=0).numpy())
assert np.abs(tried.decode(codes).astype(int) - known.decode(codes)).max() <= 1
print(tried.backend_info)
"""
    software = {
        "LD_LIBRARY_PATH": str(CHROMIUM),
        "VK_DRIVER_FILES": str(tmp_path / "driver.json"),
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
    }
    assert "by WebGpuExecutionProvider" in run(program, **software)
