"""A MONAI bundle: complete, true of its network, free of the machine that trained, and working."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow, ckpt_export, verify_net_in_out

from medkd.bundle import STUDENT, bundle_folder
from medkd.data import Preprocessing
from medkd.engines import SavedModel, load_model
from medkd.engines.saved_model import load_tensors
from medkd.errors import UserError
from medkd.export import export_model
from medkd.inference import Segmenter
from medkd.recipes import run_recipe

FILES = {
    "LICENSE", "configs/evaluate.yaml", "configs/inference.yaml", "configs/logging.conf", "configs/metadata.json",
    "docs/README.md", "docs/data_license.txt", "models/model.json", "models/model.pt",
}  # fmt: skip


@pytest.fixture
def bundle(run, tmp_path) -> Path:
    """The exported bundle of the tiny run."""
    export_model(run, "bundle", tmp_path / "bundle")
    return tmp_path / "bundle"


def files(bundle: Path) -> set[str]:
    return {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}


def metadata(bundle: Path) -> dict:
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def configs(bundle: Path) -> dict[str, str]:
    return {
        "config_file": str(bundle / "configs" / "inference.yaml"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "bundle_root": str(bundle),
    }


def test_it_is_complete_and_holds_the_network_alone(bundle, run):
    assert files(bundle) == FILES | {"configs/distill.yaml"}
    ours, theirs = load_tensors(bundle / "models" / "model.pt"), load_model(run).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert SavedModel.read(bundle) == SavedModel.read(run)


def test_it_names_no_case_and_no_place_of_the_machine(bundle, run, tiny_task):
    for name in files(bundle) - {"models/model.pt"}:
        text = (bundle / name).read_text()
        for word in (str(tiny_task), str(run), "somebody", "tiny_", "/sample", "spleen'"):
            assert word not in text, (name, word)


def test_texts_say_what_it_is(bundle):
    text = (bundle / "docs" / "README.md").read_text()
    for words in (
        "# unet_s1 for block", "no medical device", "-125 and 275 HU", "32 x 32", "0 background, 1 block",
        "distilled by the method emkd", "block 1.0000", "18 slices of 3 volumes", "configs/inference.yaml",
        "configs/evaluate.yaml", "verify_net_in_out", "ckpt_export", "medkd export", "`LICENSE` is the license of the",
        "cannot be read stops",
    ):  # fmt: skip
        assert words in text
    data_license = (bundle / "docs" / "data_license.txt").read_text()
    assert "Fill them in" in data_license and "LICENSE is the license of the config files" in data_license


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (["2*n", "2*n"], ["slice below", "slice", "slice above"], ["logit of block"], "CT")),
        (
            {
                "labels": {0: "background", 1: "block", 2: "rest"},
                "preprocessing": Preprocessing(32, None, "replicated"),
            },
            (["2*n", "2*n"], ["slice"] * 3, ["logit of background", "logit of block", "logit of rest"], "n/a"),
        ),
        (
            {"preprocessing": Preprocessing(32, channels="single")},
            (["2*n", "2*n"], ["slice"], ["logit of block"], "CT"),
        ),
        (
            {"name": "multitask_transunet", "width": 16, "image_size": 32},
            ([32, 32], ["slice below", "slice", "slice above"], ["logit of block"], "CT"),
        ),
    ],
)
def test_the_metadata_describe_the_network(arguments, expected, make_run, tmp_path):
    export_model(make_run(**arguments), "bundle", tmp_path / "bundle")
    content = metadata(tmp_path / "bundle")
    image, pred = (
        content["network_data_format"][key][name] for key, name in (("inputs", "image"), ("outputs", "pred"))
    )
    shape, inputs, outputs, modality = expected
    assert image["spatial_shape"] == pred["spatial_shape"] == shape
    assert list(image["channel_def"].values()) == inputs and image["num_channels"] == len(inputs)
    assert list(pred["channel_def"].values()) == outputs and pred["num_channels"] == len(outputs)
    assert image["modality"] == modality
    assert content["version"] == "0.1.0" and list(content["changelog"]) == ["0.1.0"] and "eval_metrics" not in content
    parameters = sum(p.numel() for p in load_model(tmp_path / "bundle").parameters())
    assert f"{parameters:,} parameters" in content["description"]
    verify_net_in_out(net_id="network_def", device="cpu", n=16, **configs(tmp_path / "bundle"))


def test_monai_exports_it(bundle, run, tmp_path):
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(bundle / "models" / "model.pt"),
        **configs(bundle),
    )
    slices = torch.rand(2, 3, 50, 37)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(slices), load_model(run)(slices))


def test_monai_segments_with_it_from_any_folder(bundle, run, tiny_task, tmp_path):
    config = str(bundle / "configs" / "inference.yaml")
    words = ["run", "--config_file", config, "--dataset_dir", str(tiny_task / "imagesTr"), "--output_dir", "masks"]
    subprocess.run([sys.executable, "-m", "monai.bundle", *words], check=True, cwd=tmp_path, capture_output=True)
    expected = Segmenter.load(run, "torch")(tiny_task / "imagesTr" / "tiny_1.nii.gz").mask
    found = np.asarray(nibabel.load(tmp_path / "masks" / "tiny_1_seg.nii.gz").dataobj)
    assert expected.any() and (found == expected).all()


def test_from_python_it_never_falls_back_on_the_weights_that_medkd_ships(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workflow = ConfigWorkflow(configs(bundle)["config_file"], logging_file=False, workflow_type="inference")
    with pytest.raises(Exception) as raised:
        workflow.parser.get_parsed_content("network_def")
    causes = [raised.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert isinstance(causes[-1], UserError) and "exported_unet_s1" in str(causes[-1])
    monkeypatch.chdir(bundle)
    workflow = ConfigWorkflow(configs(bundle)["config_file"], logging_file=False, workflow_type="inference")
    assert workflow.parser.get_parsed_content("network_def").definition == load_model(bundle).definition


def test_it_is_a_run_for_medkd_and_exports_again(bundle, run, tiny_task, tmp_path):
    scan = tiny_task / "imagesTr" / "tiny_0.nii.gz"
    assert (Segmenter.load(bundle, "torch")(scan).mask == Segmenter.load(run, "torch")(scan).mask).all()
    for format in ("torchscript", "bundle"):
        agreement = export_model(bundle, format, tmp_path / "again" / format, tiny_task)
        # It does not know its split: the first three of all cases.
        assert agreement.lowest_dice == 1.0 and agreement.volumes == 3
    again = tmp_path / "again" / "bundle"
    assert files(again) == files(bundle)
    assert (again / "configs" / "distill.yaml").read_text() == (bundle / "configs" / "distill.yaml").read_text()
    assert "Training: by `configs/distill.yaml`." in (again / "docs" / "README.md").read_text()


def test_configs_that_are_no_recipe_of_the_model_stay_behind(run, tiny_task, tmp_path):
    shipped = tmp_path / "shipped"
    shutil.copytree(bundle_folder(STUDENT) / "configs", shipped / "configs")
    (run / "recipe.json").unlink()
    shutil.move(run, shipped / "models")
    export_model(shipped, "bundle", tmp_path / "bundle", tiny_task)
    assert files(tmp_path / "bundle") == FILES
    assert "Training: not known here." in (tmp_path / "bundle" / "docs" / "README.md").read_text()


def test_the_recipe_inside_trains_the_same_model_again(tiny_task, tmp_path):
    overrides = {
        "dataset_dir": str(tiny_task), "network_def::channels": [4, 8], "epochs": 3, "batch_size": 4, "size": 32,
        "learning_rate": 0.01,
    }  # fmt: skip
    run = run_recipe(STUDENT, "train", overrides, tmp_path / "run")
    export_model(run, "bundle", tmp_path / "bundle")
    config = tmp_path / "bundle" / "configs" / "train.yaml"
    assert yaml.safe_load(config.read_text())["epochs"] == 3
    places = {"dataset_dir": str(tiny_task), "output_dir": str(tmp_path / "again")}
    workflow = ConfigWorkflow(
        str(config), logging_file=False, workflow_type="train", bundle_root=str(tmp_path / "bundle"), **places
    )
    workflow.initialize()
    workflow.run()
    ours, theirs = load_tensors(tmp_path / "again" / "model.pt"), load_tensors(run / "model.pt")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
