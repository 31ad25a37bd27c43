"""The commands of monai.bundle on both bundles, from another working folder than theirs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from monai.bundle import ckpt_export, create_workflow, onnx_export, verify_metadata, verify_net_in_out
from monai.data import load_net_with_metadata

from medkd.engines import load_model


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that has nothing to do with the bundle."""
    monkeypatch.chdir(tmp_path)


def paths(bundle: Path) -> dict[str, str]:
    configs = bundle / "configs"
    return {
        "config_file": str(configs / "inference.yaml"),
        "meta_file": str(configs / "metadata.json"),
        "bundle_root": str(bundle),
    }


def test_verify_metadata(bundle, tmp_path):
    # MONAI takes a schema that lies there already; the one it would download is not reachable from a test.
    schema = shutil.copy(Path(__file__).parent / "metadata_rules.json", tmp_path / "schema.json")
    verify_metadata(meta_file=paths(bundle)["meta_file"], filepath=str(schema))


def test_verify_net_in_out(bundle):
    verify_net_in_out(net_id="network_def", device="cpu", **paths(bundle))


@pytest.mark.parametrize("size", [(2, 64, 64), (1, 72, 40)])
def test_ckpt_export_gives_the_trained_network(size, bundle, tmp_path):
    target = tmp_path / "model.ts"
    ckpt_export(net_id="network_def", filepath=str(target), ckpt_file=str(bundle / "models/model.pt"), **paths(bundle))
    scripted, metadata, _ = load_net_with_metadata(str(target))
    image = torch.rand(size[0], 3, *size[1:])
    with torch.inference_mode():
        assert torch.allclose(scripted(image), load_model(bundle)(image), atol=1e-4)
    assert metadata["task"] == "Spleen segmentation on CT"


def test_onnx_export_gives_the_trained_network(bundle, tmp_path):
    target = tmp_path / "model.onnx"
    onnx_export(
        net_id="network_def",
        filepath=str(target),
        ckpt_file=str(bundle / "models/model.pt"),
        input_shape=[1, 3, 64, 64],
        **paths(bundle),
    )
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    image = torch.rand(1, 3, 64, 64)
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.inference_mode():
        assert torch.allclose(torch.from_numpy(logits), load_model(bundle)(image), atol=1e-3)


@pytest.mark.parametrize("root", ["given", "found"])
def test_create_workflow_checks_the_properties_of_inference(root, bundle):
    arguments = paths(bundle)
    if root == "found":
        del arguments["bundle_root"]
    workflow = create_workflow(workflow_type="infer", logging_file=False, **arguments)
    assert workflow.check_properties() == []
    assert sum(p.numel() for p in workflow.network_def.parameters()) > 0


def test_the_readmes_commands_run_in_the_bundles_folder(bundle, tmp_path):
    """Those that need nothing else: inference with its default scan, and the exports."""
    folder = shutil.copytree(bundle, tmp_path / bundle.name)
    blocks = re.findall(r"^```\n(.*?)^```", (folder / "docs" / "README.md").read_text(), flags=re.M | re.S)
    commands = [block.strip() for block in blocks if "<" not in block]
    assert [command.split()[3] for command in commands] == ["run", "ckpt_export", "onnx_export"]
    for command in commands:
        words = [sys.executable, *shlex.split(command)[1:]]
        result = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}\n{result.stderr[-2000:]}"
    for written in ("eval/phantom_seg.nii.gz", "models/model.ts", "models/model.onnx"):
        assert (folder / written).stat().st_size > 0
