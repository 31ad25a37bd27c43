"""The texts of an exported bundle."""

from __future__ import annotations

import json
from typing import Any

from medkd.engines.saved_model import SavedModel
from medkd.export.agreement import Agreement
from medkd.export.description import network_name, organs
from medkd.export.recipe import method_name

CHANNEL_NAMES = {
    "neighbours": "three channels, the slice between its neighbours",
    "replicated": "three channels, the slice three times",
    "single": "one channel, the slice",
}

DATA_LICENSE = """\
The model of this bundle was trained on data of whoever exported it. The bundle holds none of that data.

Its origin and its license are not known here. Fill them in before you pass the bundle on:

Data set:
License:

LICENSE is the license of the config files; that of the weights is for whoever exported them to choose.
"""

_README = """\
# {network} for {organs}

Exported by medkd from a trained model. It is research software and no medical device: not for diagnosis or treatment.

## Model

- Network: `{definition}`, {parameters:,} parameters. It sees a scan slice by slice and gives logits.
- Pre-processing: axial slices in RAS order, {cut}resized and padded to {size} x {size}; {window};
  {channels}.
- Labels: {labels}.
- Training: {training}
- Export: compared with the trained network on real slices. {agreement}.

`models/model.json` describes the model, `models/model.pt` holds its weights. medkd must be installed.

`LICENSE` is the license of the config files; that of the weights is for whoever exported them to choose.

## Commands

In the folder of the bundle. Masks of new scans, to `eval`:

```sh
python -m monai.bundle run --config_file configs/inference.yaml --dataset_dir SCANS
```

A scan that cannot be read stops this command; `medkd infer` goes on with the others.

Dice on labelled scans in a Decathlon folder. The bundle does not know what the model was trained on, so `all` is for
scans that it has never seen:

```sh
python -m monai.bundle run --config_file configs/evaluate.yaml --dataset_dir TASK --part all
```

Check that the metadata describe the network, and write it as TorchScript:

```sh
python -m monai.bundle verify_net_in_out --net_id network_def --meta_file configs/metadata.json \\
    --config_file configs/inference.yaml
python -m monai.bundle ckpt_export --net_id network_def --filepath model.ts --ckpt_file models/model.pt \\
    --meta_file configs/metadata.json --config_file configs/inference.yaml{trace}
```

medkd takes the folder for a run: `medkd infer BUNDLE scan.nii.gz --out masks`,
`medkd export BUNDLE --format onnx --out model.onnx --data TASK`.
"""


def readme(
    model: SavedModel,
    parameters: int,
    recipe: dict[str, Any] | None,
    configs: list[str],
    agreement: Agreement,
    is_scriptable: bool,
) -> str:
    """The bundle's ``README.md``.

    Args:
        model: what the network is.
        parameters: of the network.
        recipe: it was trained by; None if that is not known.
        configs: names of the bundle's files that it was trained by.
        agreement: of the bundle with the trained network.
        is_scriptable: whether MONAI can script the network; it must trace it otherwise.
    """
    preprocessing = model.preprocessing
    size = preprocessing.size
    trace = f' \\\n    --use_trace True --input_shape "[1, {preprocessing.in_channels}, {size}, {size}]"'
    window = "each scan's percentiles 0.5 and 99.5 become 0 and 1"
    if preprocessing.window:
        window = "{:g} and {:g} HU become 0 and 1".format(*preprocessing.window)
    return _README.format(
        network=network_name(model),
        organs=organs(model),
        definition=json.dumps(model.network),
        parameters=parameters,
        cut="cut to the box around the body, " if preprocessing.field_of_view == "body" else "",
        size=size,
        window=window,
        channels=CHANNEL_NAMES[preprocessing.channels],
        labels=", ".join(f"{value} {name}" for value, name in sorted(model.labels.items())),
        trace="" if is_scriptable else trace,
        training=_training(recipe, configs),
        agreement=agreement,
    )


def _training(recipe: dict[str, Any] | None, configs: list[str]) -> str:
    if recipe is None:
        return f"by {' and '.join(f'`configs/{name}`' for name in configs)}." if configs else "not known here."
    method = method_name(recipe)
    by = f", distilled by the method {method}" if method else ""
    config = recipe["config"]
    return f"by the recipe `{config}` of medkd's {recipe['bundle']}{by}. It is `configs/{config}.yaml`."
