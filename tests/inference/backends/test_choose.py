"""Which backend runs a model: the fastest that agrees, found out once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from medkd.data import Preprocessing
from medkd.engines import SavedModel
from medkd.engines.saved_model import load_model
from medkd.errors import UserError
from medkd.export.onnx import write_onnx
from medkd.inference.backends import Backend, TorchBackend, choose, create_backend
from medkd.inference.backends.model_file import ONNX_FILE, OnnxFile, model_hash
from medkd.inference.backends.onnx_backend import OnnxBackend
from medkd.inference.backends.openvino_backend import OpenVinoBackend
from medkd.networks import NetworkEntry, registry

for _package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(_package, reason=f"{_package} is not installed: there is no choice")

KINDS = {"onnx": OnnxBackend, "openvino": OpenVinoBackend, "torch": TorchBackend}
OTHERS = ("onnx", "openvino")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(choose, "_has_gpu", lambda: False)


@pytest.fixture
def seconds(monkeypatch) -> dict[str, float]:
    """What each backend is measured to take; by default ONNX Runtime is the fastest."""
    table = {"torch": 3.0, "onnx": 1.0, "openvino": 2.0}
    monkeypatch.setattr(choose, "_trial", lambda backend, slices: (backend(slices), table[backend.name]))
    return table


@pytest.fixture
def comparisons(seconds, monkeypatch) -> list[str]:
    """The backends that were compared with torch, in order."""
    done, compare = [], choose._compare
    monkeypatch.setattr(choose, "_compare", lambda name, *rest: done.append(name) or compare(name, *rest))
    return done


def create(run, name="auto", device=None, threads=1) -> Backend:
    return create_backend(run, model_hash(run), name, device, threads)


def wrong(name: str, by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a backend be off by a share of its largest logit."""
    real = KINDS[name].__call__

    def call(self, slices):
        logits = real(self, slices).copy()
        logits[0, 0, 3, 3] += by * np.abs(logits).max()
        return logits

    monkeypatch.setattr(KINDS[name], "__call__", call)


@pytest.mark.parametrize(
    ("onnx", "openvino", "fastest"),
    [(1.0, 2.0, "onnx"), (2.0, 1.0, "openvino"), (4.0, 2.9, "openvino"), (4.4, 5.0, "onnx"), (4.6, 5.0, "torch")],
)
def test_auto_takes_the_fastest_and_torch_if_that_is_much_faster(onnx, openvino, fastest, make_run, seconds):
    seconds |= {"onnx": onnx, "openvino": openvino}
    assert isinstance(create(make_run()), KINDS[fastest])


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_backend_can_be_asked_for_by_name_however_slow(name, device, make_run, seconds):
    seconds[name] = 100.0
    backend = create(make_run(), name, device)
    assert isinstance(backend, KINDS[name]) and backend.name == name


@pytest.mark.parametrize(("name", "second"), [("onnx", "openvino"), ("openvino", "onnx")])
def test_one_that_disagrees_is_left_out_and_refused_by_name(name, second, make_run, seconds, monkeypatch):
    seconds[name] = 0.1
    wrong(name, 0.01, monkeypatch)
    run = make_run()
    assert isinstance(create(run), KINDS[second])
    with pytest.raises(UserError, match=f"{name} gives other logits than torch .*: choose the backend torch"):
        create(run, name)
    assert isinstance(create(run, second), KINDS[second])


def test_torch_is_left_where_all_disagree(make_run, seconds, monkeypatch):
    for name in OTHERS:
        wrong(name, 0.01, monkeypatch)
    assert isinstance(create(make_run()), TorchBackend)


@pytest.mark.parametrize(
    ("by", "agrees"), [(1e-5, True), (5e-4, True), (2e-3, False), (float("nan"), False), (float("inf"), False)]
)
def test_how_much_is_rounding(by, agrees, make_run, seconds, monkeypatch):
    wrong("onnx", by, monkeypatch)
    assert isinstance(create(make_run()), OnnxBackend) is agrees


@pytest.mark.parametrize("error", [RuntimeError("no such operator"), MemoryError(), UserError("cannot be run")])
def test_one_that_fails_is_left_out(error, make_run, seconds, monkeypatch):
    def fail(self, slices):
        raise error

    monkeypatch.setattr(OnnxBackend, "__call__", fail)
    assert isinstance(create(make_run()), OpenVinoBackend)


def test_what_was_found_out_is_remembered(make_run, comparisons):
    run = make_run()
    for name in ("auto", "auto", "onnx", "openvino", "auto"):
        create(run, name)
    assert sorted(comparisons) == ["onnx", "openvino"]


@pytest.mark.parametrize("change", ["weights", "onnx file", "version", "memory"])
def test_what_has_changed_is_found_out_anew(change, make_run, comparisons, empty_cache, monkeypatch):
    run = make_run()
    create(run)
    comparisons.clear()
    expected = ["onnx", "openvino"]
    if change == "weights":
        run = make_run(seed=1)
    elif change == "onnx file":
        file = OnnxFile(run, model_hash(run)).path
        # A field that ONNX does not know, with nothing in it.
        file.write_bytes(file.read_bytes() + b"\xfa\x7f\x00")
    elif change == "version":
        version = choose.version
        monkeypatch.setattr(choose, "version", lambda package: "99" if package == "openvino" else version(package))
        expected = ["openvino"]
    else:
        for memory in empty_cache.rglob("backends-*.json"):
            memory.write_text("{")
    create(run)
    assert sorted(comparisons) == expected


def test_a_package_of_another_name_is_known_too(make_run, comparisons, monkeypatch):
    """As onnxruntime-gpu is, which is imported as onnxruntime."""
    version = choose.version

    def of_another_name(package: str) -> str:
        if package == "onnxruntime":
            raise choose.PackageNotFoundError(package)
        return "1.2" if package == "onnxruntime-gpu" else version(package)

    monkeypatch.setattr(choose, "version", of_another_name)
    monkeypatch.setattr(choose, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]})
    run = make_run()
    assert isinstance(create(run), OnnxBackend) and isinstance(create(run), OnnxBackend)
    assert sorted(comparisons) == ["onnx", "openvino"]


AGAIN = """
import json, sys
from medkd.inference.segmenter import Segmenter

result = Segmenter.load(sys.argv[1], threads=1)(sys.argv[2])
heavy = sorted({"torch", "monai", "onnx", "matplotlib", "pandas"} & set(sys.modules))
print(json.dumps({"backend": result.measurements["backend"], "heavy": heavy}))
"""


@pytest.mark.parametrize("fastest", OTHERS)
def test_the_second_time_torch_is_not_needed(fastest, make_run, seconds, tmp_path):
    seconds[fastest] = 0.1
    run = make_run()
    create(run)
    array = np.random.default_rng(0).integers(-100, 200, (20, 20, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii")
    command = [sys.executable, "-c", AGAIN, run, tmp_path / "scan.nii"]
    found = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == {"backend": fastest, "heavy": []}


def put_beside(run, network: nn.Module, model: SavedModel) -> None:
    write_onnx(network, model, run / ONNX_FILE)


def test_a_file_beside_the_weights_is_used(make_run, seconds, empty_cache, monkeypatch):
    run = make_run()
    put_beside(run, load_model(run), SavedModel.read(run))
    # Nothing has to be written, so what writes it is not needed.
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in OTHERS:
        assert isinstance(create(run, name), KINDS[name])
    assert isinstance(create(run), OnnxBackend)
    assert not list(empty_cache.rglob("*.onnx"))


@pytest.mark.parametrize(
    "arguments",
    [{"seed": 5}, {"channels": "single"}, {"classes": 3}, {"arguments": {"channels": (4, 8, 12)}}],
    ids=["weights", "input channels", "classes", "size"],
)
def test_a_file_of_another_network_beside_the_weights_is_found_out(arguments, make_run, seconds):
    run, other = make_run("run"), make_run("other", **arguments)
    put_beside(run, load_model(other), SavedModel.read(other))
    assert isinstance(create(run), TorchBackend)
    for name in OTHERS:
        with pytest.raises(UserError, match=f"{name} (gives other logits than torch|cannot)"):
            create(run, name)


@pytest.mark.parametrize("content", [b"", b"torn", b"\x08\x07" * 99])
def test_a_damaged_file_beside_the_weights_is_named(content, make_run, seconds):
    run = make_run()
    (run / ONNX_FILE).write_bytes(content)
    assert isinstance(create(run), TorchBackend)
    for name in OTHERS:
        with pytest.raises(UserError, match=rf"{run / ONNX_FILE} cannot be run by .*: remove it"):
            create(run, name)


def test_a_cache_that_cannot_be_written_falls_back_to_torch(make_run, comparisons, empty_cache):
    empty_cache.write_text("no folder")
    run = make_run()
    assert isinstance(create(run), TorchBackend)
    for name in OTHERS:
        with pytest.raises(UserError, match=f"cannot write {empty_cache}.*: free some space or choose another folder"):
            create(run, name)
    # With the file beside the weights there is only nothing to remember by.
    put_beside(run, load_model(run), SavedModel.read(run))
    assert isinstance(create(run), OnnxBackend)
    assert isinstance(create(run), OnnxBackend)
    assert sorted(comparisons) == ["onnx", "onnx", "openvino", "openvino"]


@pytest.mark.parametrize("missing", [["onnx"], ["onnxruntime"], ["onnx", "onnxruntime", "openvino"]])
def test_auto_falls_back_to_torch_where_packages_are_missing(missing, make_run, seconds, monkeypatch):
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    assert isinstance(create(make_run()), TorchBackend)


def test_openvino_runs_a_file_that_is_there_without_onnxruntime(make_run, seconds, monkeypatch):
    run = make_run()
    put_beside(run, load_model(run), SavedModel.read(run))
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    assert isinstance(create(run), OpenVinoBackend)


class NotInOnnx(nn.Module):
    """Solves equations, for which ONNX has no operator."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.lstsq(x[:, :1], x[:, 1:2]).solution * self.weight


def test_a_network_that_cannot_be_written_as_onnx_is_run_by_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(registry._REGISTRY, "solver", NetworkEntry("solver", NotInOnnx, "student", "none"))
    model = SavedModel({"name": "solver"}, Preprocessing(size=32), {0: "background", 1: "block"})
    model.save(tmp_path / "run", NotInOnnx().state_dict())
    assert isinstance(create(tmp_path / "run"), TorchBackend)
    with pytest.raises(UserError, match="cannot be written as ONNX: choose the backend torch"):
        create(tmp_path / "run", "onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tensorrt"}, "the backend 'tensorrt' is not known: choose auto, openvino, onnx, torch"),
        ({"name": ""}, "the backend '' is not known"),
        ({"name": "ONNX"}, "the backend 'ONNX' is not known"),
        ({"threads": 0}, "threads is 0: give 1 or more"),
        ({"threads": -2, "name": "torch"}, "threads is -2: give 1 or more"),
        ({"name": "openvino", "device": "cuda"}, "openvino runs on the processor, not on cuda: choose .* torch"),
        ({"name": "onnx", "device": "cuda:1"}, "onnx runs on the processor, not on cuda:1: choose the backend torch"),
        ({"device": "gpu"}, "the device gpu cannot be used .*: give cpu, or leave it out"),
        ({"name": "torch", "device": "0"}, "the device 0 cannot be used .*: give cpu, or leave it out"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_a_sentence(arguments, message, make_run):
    with pytest.raises(UserError, match=message) as error:
        create(make_run(), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["auto", "torch"])
def test_a_gpu_that_is_not_there_is_told(name, make_run):
    with pytest.raises(UserError, match=r"the device cuda cannot be used .*: give cpu, or leave it out"):
        create(make_run(), name, "cuda")


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_backend_that_is_not_installed_is_told(name, package, make_run, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} is not installed: pip install medkd\[{name}\]"):
        create(make_run(), name)


@pytest.mark.parametrize("name", ["auto", "torch", "onnx", "openvino"])
def test_a_model_without_weights_is_told(name, make_run):
    run = make_run()
    key = model_hash(run)
    (run / "model.pt").unlink()
    with pytest.raises(UserError, match=r"model\.pt is missing"):
        create_backend(run, key, name, threads=1)


def test_where_there_is_a_gpu_auto_takes_torch_unless_told_otherwise(make_run, comparisons, monkeypatch):
    """Which device torch takes is its own affair; here it only pretends."""
    devices = []
    monkeypatch.setattr(choose, "_has_gpu", lambda: True)
    monkeypatch.setattr(choose, "_torch", lambda folder, device, threads: devices.append(device) or "torch")
    run = make_run()
    assert create(run) == "torch" and devices == [None] and comparisons == []
    assert create(run, device="cuda:3") == "torch" and devices == [None, "cuda:3"]


def test_the_processor_stays_the_processor_without_a_faster_backend(make_run, monkeypatch):
    devices = []
    monkeypatch.setattr(choose, "_torch", lambda folder, device, threads: devices.append(device))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    create(make_run(), device="cpu")
    assert devices == ["cpu"]


def test_a_bundle_is_run_like_its_run(make_run, seconds, tmp_path):
    run, bundle = make_run(), tmp_path / "bundle"
    shutil.copytree(run, bundle / "models")
    slices = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(create(bundle)(slices), create(run)(slices))
    assert isinstance(create(bundle), OnnxBackend)
