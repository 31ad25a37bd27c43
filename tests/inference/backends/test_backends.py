"""Every backend says what the network says, to any number of threads, and nothing to anybody else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medkd.data import Preprocessing
from medkd.engines import SavedModel, load_model
from medkd.errors import UserError
from medkd.export.onnx import write_onnx
from medkd.inference import Segmenter
from medkd.inference.backends import BACKENDS, Backend, TorchBackend
from medkd.inference.backends.onnx_backend import OnnxBackend
from medkd.inference.backends.openvino_backend import OpenVinoBackend
from medkd.networks import create_network

PACKAGES = {"torch": (), "onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "onnxruntime", "openvino")}
# Of the largest logit. Rounding to half precision is off by 4e-3 and more.
CLOSE = 1e-4
NETWORKS = {
    "student": {"name": "unet_s1"},
    "student, one channel": {"name": "unet_s1", "channels": "single"},
    "student, 4 classes": {"name": "unet_s1", "classes": 4},
    "espnet": {"name": "espnet", "channels": "replicated"},
    "multi-task": {"name": "multitask_unet", "arguments": {"channels": (4, 6, 8, 10, 12)}},
    "of one image size": {
        "name": "multitask_transunet", "arguments": {"width": 16, "tokens": "published", "image_size": 32},
    },
}  # fmt: skip


def need(backend: str) -> None:
    for package in PACKAGES[backend]:
        pytest.importorskip(package, reason=f"{package} is not installed: the backend {backend} cannot be tested")


def create(backend: str, run: Path) -> Backend:
    need(backend)
    network, file = load_model(run), run / "network.onnx"
    if backend == "torch":
        return TorchBackend(network, "cpu")
    if not file.exists():
        write_onnx(network, SavedModel.read(run), file)
    return OnnxBackend(file, 1) if backend == "onnx" else OpenVinoBackend(file, 32, 1)


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=NETWORKS)
def run(request, make_shared_run) -> Path:
    return make_shared_run(**request.param)


@pytest.fixture(scope="module")
def student(make_shared_run) -> Path:
    return make_shared_run(classes=3)


def random_slices(run: Path, batch: int, seed: int = 0) -> np.ndarray:
    shape = (batch, SavedModel.read(run).preprocessing.in_channels, 32, 32)
    return np.random.default_rng(seed).random(shape, np.float32)


def logits_of(run: Path, slices: np.ndarray) -> np.ndarray:
    """What the network itself says, in the layout it was built in."""
    with torch.no_grad():
        output = load_model(run)(torch.from_numpy(slices.copy()))
    return (output[0] if isinstance(output, tuple) else output).numpy()


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert np.abs(expected).max() > 1e-3 and expected.std() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE * np.abs(expected).max())


@pytest.mark.parametrize("name", BACKENDS)
def test_all_give_the_logits_of_the_network(name, run):
    backend = create(name, run)
    assert backend.name == name
    for batch in (8, 1, 3):
        slices = random_slices(run, batch)
        assert_close(backend(slices), logits_of(run, slices))


@pytest.mark.parametrize("name", BACKENDS)
def test_several_threads_get_what_one_gets(name, student):
    backend = create(name, student)
    parts = [random_slices(student, 1 + seed % 8, seed) for seed in range(40)]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(backend, parts))
    for logits, slices in zip(found, parts, strict=True):
        assert_close(logits, logits_of(student, slices))


@pytest.mark.parametrize("name", BACKENDS)
def test_logits_stay_when_the_next_are_made(name, student):
    backend = create(name, student)
    first = backend(random_slices(student, 4, 1))
    before = first.copy()
    others = [backend(random_slices(student, 4, seed)) for seed in range(2, 8)]
    np.testing.assert_array_equal(first, before)
    assert not any(np.shares_memory(first, other) for other in others)


@pytest.mark.parametrize("name", BACKENDS)
def test_slices_may_lie_in_memory_in_any_order_and_stay_as_they_are(name, student):
    backend = create(name, student)
    slices = random_slices(student, 4)
    expected = backend(slices)
    for given in (np.asfortranarray(slices), np.repeat(slices, 2, axis=3)[..., ::2], np.repeat(slices, 2, axis=0)[::2]):
        before = given.copy()
        np.testing.assert_allclose(backend(given), expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(given, before)


def test_a_network_that_answers_in_parts_gives_its_logits():
    network = create_network("multitask_unet", channels=(4, 6, 8, 10, 12)).eval()
    slices = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    parts = TorchBackend(network, "cpu").run(slices, reconstruct=True)
    assert len(parts) == 2
    np.testing.assert_allclose(TorchBackend(network, "cpu")(slices), parts[0], atol=1e-6)


def test_openvino_works_in_single_precision(student):
    """On a processor with half precision it would take that by itself."""
    backend = create("openvino", student)
    import openvino

    assert backend._model.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    # 1 + 2^-10 is 1 in bfloat16: a network that tells them apart has not rounded.
    slices = np.ones((1, 3, 32, 32), np.float32)
    close = np.float32(1 + 2**-10)
    expected = logits_of(student, slices * close) - logits_of(student, slices)
    found = backend(slices * close) - backend(slices)
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07" * 50])
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_damaged_file_is_named(name, content, tmp_path):
    need(name)
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file} cannot be run by .*: remove it"):
        OnnxBackend(file) if name == "onnx" else OpenVinoBackend(file, 32)


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_package_is_named(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"not installed: pip install medkd\[{name}\]"):
        OnnxBackend(tmp_path / "x") if name == "onnx" else OpenVinoBackend(tmp_path / "x", 32)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7", "gpu", "cpu:x"])
def test_a_device_that_is_not_there_is_named(device, student):
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=f"the device {device} cannot be used .*: give cpu, or leave it out"):
        TorchBackend(load_model(student), device)


# What segments a scan with one backend where nothing may be asked of any network.
OFFLINE = """
import json, socket, sys

def refused(*arguments, **more):
    raise AssertionError(f"asked the network for {arguments}")

for name in ("connect", "connect_ex", "sendto", "sendmsg"):
    setattr(socket.socket, name, refused)
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, name, refused)
from medkd.inference.segmenter import Segmenter

run, scan, out = sys.argv[1:4]
found = {}
for name in sys.argv[4:]:
    result = Segmenter.load(run, name, threads=1)(scan)
    result.save(f"{out}/{name}.nii.gz")
    found[name] = result.measurements["backend"]
found["telemetry"] = sys.modules.get("openvino_telemetry") is not None
print(json.dumps(found))
"""


def installed_backends() -> list[str]:
    import importlib.util

    return [name for name in BACKENDS if all(importlib.util.find_spec(package) for package in PACKAGES[name])]


def write_scan(path: Path) -> None:
    array = np.random.default_rng(0).integers(-100, 200, (40, 36, 5)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-2.0, 2.0, 5.0, 1.0])), path)


def test_nothing_is_asked_of_or_told_to_the_network(student, tmp_path):
    """Nor kept to be told later: ONNX Runtime writes an identifier of the machine to the home folder if it may.

    Sockets that Python does not know of are seen by strace, where it is installed.
    """
    write_scan(tmp_path / "scan.nii.gz")
    (tmp_path / "home").mkdir()
    # Continuous integration is not counted, so the libraries must not know of it.
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment = {key: value for key, value in environment.items() if not key.startswith(("GITHUB_", "XDG_"))}
    environment |= {"HOME": str(tmp_path / "home")}
    names = installed_backends()
    trace = []
    if shutil.which("strace"):
        calls = "trace=connect,sendto,sendmsg,sendmmsg"
        trace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", calls, "-o", str(tmp_path / "trace")]
    command = [sys.executable, "-c", OFFLINE, student, tmp_path / "scan.nii.gz", tmp_path, *names]
    found = subprocess.run([*trace, *map(str, command)], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[-1]) == {**{name: name for name in names}, "telemetry": False}
    if trace:
        made = (tmp_path / "trace").read_text().splitlines()
        assert not [call for call in made if "AF_INET" in call]
    assert not [file for file in (tmp_path / "home").rglob("*") if "microsoft" in str(file).lower()]
    assert not [file for file in (tmp_path / "home").rglob("*") if "intel" in str(file).lower()]
    masks = [np.asarray(nibabel.load(tmp_path / f"{name}.nii.gz").dataobj) for name in names]
    assert masks[0].any() and all((mask == masks[0]).mean() > 0.999 for mask in masks)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("channels", ["neighbours", "replicated", "single"])
def test_a_scan_gets_the_mask_that_the_network_gives(name, channels, make_run, tmp_path):
    need(name)
    run = make_run(classes=3, channels=channels)
    write_scan(tmp_path / "scan.nii.gz")
    model = SavedModel.read(run)
    assert isinstance(model.preprocessing, Preprocessing)
    result = Segmenter.load(run, name, threads=1)
    found = result(tmp_path / "scan.nii.gz")
    expected = Segmenter(TorchBackend(load_model(run), "cpu"), model)(tmp_path / "scan.nii.gz")
    assert found.measurements["backend"] == name
    assert (found.mask == expected.mask).mean() > 0.999 and expected.mask.any()
    prepared = model.preprocessing.apply(found.scan)
    slices = np.ascontiguousarray(np.moveaxis(result.predict(prepared), 3, 0))
    assert slices.shape == (5, 3, 32, 32)
