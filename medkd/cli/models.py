"""medkd evaluate, export, methods, networks and demo: what there is, and how good it is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from medkd.cli.command import command


def add_commands(commands: Any) -> None:
    """Declare the commands of this module."""
    evaluate = command(
        commands, "evaluate", _evaluate, "compare a trained model with the labels, volume by volume",
        "medkd evaluate runs/student --data Task09_Spleen --json student.json",
    )  # fmt: skip
    evaluate.add_argument("model", type=Path, metavar="RUN", help="run folder of the model")
    evaluate.add_argument("--data", required=True, type=Path, metavar="DIR", help="task folder in Decathlon layout")
    evaluate.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        default="test",
        help="which cases of the run's own split (%(default)s); all for data the model has never seen",
    )
    evaluate.add_argument(
        "--postprocessed",
        action="store_true",
        help="the masks that medkd infer writes: the largest piece of each label, holes filled",
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")

    export = command(
        commands, "export", _export, "write a trained network as ONNX, TorchScript or a MONAI bundle",
        "medkd export runs/student --format onnx --out student.onnx",
    )  # fmt: skip
    export.add_argument("model", type=Path, metavar="RUN", help="run folder of the model, or a bundle")
    export.add_argument("--format", required=True, choices=("bundle", "onnx", "torchscript"), help="what to write")
    export.add_argument("--out", required=True, type=Path, metavar="PATH", help="file, or folder of the bundle")
    export.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="task folder whose slices what is written is compared on; the one it was trained on by default",
    )

    methods = command(commands, "methods", _methods, "list the distillation methods", "medkd methods emkd")
    methods.add_argument("names", nargs="*", metavar="NAME", help="only these; a YAML file of your own is shown too")
    methods.add_argument("--json", action="store_true", help="print JSON")

    networks = command(commands, "networks", _networks, "list the networks", "medkd networks --json")
    networks.add_argument("--json", action="store_true", help="print JSON")

    demo = command(commands, "demo", _demo, "the whole way on synthetic CT, in minutes", "medkd demo --out demo")
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="folder to write (%(default)s)")


def _evaluate(options: argparse.Namespace) -> int:
    from medkd.data import DecathlonTask
    from medkd.engines import run_split_file
    from medkd.files import write_json
    from medkd.inference import Segmenter, evaluate, format_evaluation

    segmenter = Segmenter.load(options.model, backend="torch")
    task = DecathlonTask.load(options.data)
    file = None if options.split == "all" else run_split_file(options.model)
    report = evaluate(segmenter, task.part(options.split, file=file), task.labels, None, options.postprocessed)
    if options.json:
        write_json(options.json, {"model": str(options.model), "split": options.split, **report})
    print(format_evaluation(report, options.model))
    return 0


def _export(options: argparse.Namespace) -> int:
    from medkd.export import export_model, format_export

    agreement = export_model(options.model, options.format, options.out, options.data)
    print(format_export(options.model, options.format, options.out, agreement))
    return 0


def _methods(options: argparse.Namespace) -> int:
    from medkd.methods import describe_method, format_methods, method_names

    descriptions = [describe_method(name) for name in options.names or method_names()]
    print(json.dumps(descriptions, indent=2) if options.json else format_methods(descriptions))
    return 0


def _networks(options: argparse.Namespace) -> int:
    from medkd.networks import describe_network, format_networks, network_names

    descriptions = [describe_network(name) for name in network_names()]
    print(json.dumps(descriptions, indent=2) if options.json else format_networks(descriptions))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from medkd.study.demo import run_demo

    run_demo(options.out)
    return 0
