"""The command line: parses, calls, prints. Everything it does can be done from Python too."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medkd import __version__
from medkd.errors import UserError

RECIPE_NOTE = (
    "Any value of the recipe can be overridden with --name value; '::' goes deeper, as in --optimizer::lr 0.001. "
    "The recipe is {config}. A stopped run goes on where it was when the same command is given again."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words behind ``medkd``; those of the process by default.

    Returns:
        0 if all went well, 1 if some cases of several failed or medkd itself did, 2 if the input was wrong, 130 if
        interrupted.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not options.overridable:
        parser.error(f"not understood: {' '.join(rest)}; see medkd {options.command} --help")
    # MONAI and ignite log each engine's life, errors with it; the user gets one bar and one sentence.
    logging.disable(logging.ERROR)
    try:
        if options.overridable:
            from medkd.recipes import parse_overrides

            options.overrides = parse_overrides(rest)
        return options.run(options)
    except UserError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted: give the same command again to go on.", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'a file'} cannot be used ({error.strerror or error}).", 2)
    except Exception as error:
        if os.environ.get("MEDKD_DEBUG"):
            raise
        reason = (str(error).strip().splitlines() or [""])[0]
        return _fail(f"failed inside ({type(error).__name__}: {reason}): MEDKD_DEBUG=1 shows where.", 1)


def _fail(sentence: str, code: int) -> int:
    print(f"medkd: {sentence}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medkd",
        description="Turn a large segmentation teacher into a tiny student.",
        epilog="Start with: medkd demo --out demo",
    )
    parser.add_argument("--version", action="version", version=f"medkd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _data_commands(commands)

    train = _command(
        commands, "train", _train, "train a teacher, or a student alone",
        "medkd train --data Task09_Spleen --network multitask_unet --out runs/teacher --epochs 50",
        "spleen_ct_teacher/configs/train.yaml for teachers, spleen_ct_student/configs/train.yaml for students",
    )  # fmt: skip
    _data_options(train)
    train.add_argument("--network", required=True, metavar="NAME", help="see medkd networks, or monai.networks.nets.X")
    train.add_argument("--role", choices=("teacher", "student"), help="whose recipe; the network's own by default")

    pretrain = _command(
        commands, "pretrain", _pretrain, "train a multi-task network to reconstruct unlabelled volumes",
        "medkd pretrain --data Task09_Spleen --network multitask_unet --out runs/start, then "
        "medkd train ... --initial_run runs/start",
        "spleen_ct_teacher/configs/pretrain.yaml",
    )  # fmt: skip
    _data_options(pretrain)
    pretrain.add_argument("--network", default="multitask_unet", metavar="NAME", help="a network with reconstruction")

    distill = _command(
        commands, "distill", _distill, "train a student beside a frozen teacher",
        "medkd distill --data Task09_Spleen --teacher runs/teacher --student unet_s1 --out runs/student",
        "spleen_ct_student/configs/distill.yaml",
    )  # fmt: skip
    _data_options(distill)
    distill.add_argument("--teacher", required=True, type=Path, metavar="RUN", help="run folder of the teacher")
    distill.add_argument("--student", default="unet_s1", metavar="NAME", help="network of the student (%(default)s)")
    distill.add_argument(
        "--method",
        default="mtms",
        metavar="NAME",
        help="what the student learns: a name that medkd methods lists (%(default)s), or a YAML file of your own",
    )

    evaluate = _command(
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
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")

    infer = _command(
        commands, "infer", _infer, "segment new scans",
        "medkd infer runs/student scan1.nii.gz scan2.nii.gz --out masks",
    )  # fmt: skip
    infer.add_argument("model", type=Path, metavar="RUN", help="run folder of the model")
    infer.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="NIfTI scans")
    infer.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for masks and measurements.json")

    export = _command(
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

    methods = _command(commands, "methods", _methods, "list the distillation methods", "medkd methods emkd")
    methods.add_argument("names", nargs="*", metavar="NAME", help="only these; a YAML file of your own is shown too")
    methods.add_argument("--json", action="store_true", help="print JSON")

    networks = _command(commands, "networks", _networks, "list the networks", "medkd networks --json")
    networks.add_argument("--json", action="store_true", help="print JSON")

    demo = _command(commands, "demo", _demo, "the whole way on synthetic CT, in minutes", "medkd demo --out demo")
    demo.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="folder to write (%(default)s)")
    _study_commands(commands)
    return parser


def _data_commands(commands: Any) -> None:
    data = commands.add_parser("data", help="look at, make and convert data").add_subparsers(
        dest="data_command", required=True, metavar="COMMAND"
    )
    info = _command(data, "info", _data_info, "what is in a task folder and what is wrong with it",
                    "medkd data info Task09_Spleen")  # fmt: skip
    info.add_argument("folder", type=Path, metavar="DIR")
    info.add_argument("--json", action="store_true", help="print JSON")
    phantom = _command(data, "phantom", _data_phantom, "make synthetic abdominal CT in Decathlon layout",
                       "medkd data phantom --out phantoms --volumes 12 --seed 0")  # fmt: skip
    phantom.add_argument("--out", required=True, type=Path, metavar="DIR")
    phantom.add_argument("--volumes", type=int, default=12, metavar="N", help="how many (%(default)s)")
    phantom.add_argument("--seed", type=int, default=0, metavar="S", help="same seed, same bytes (%(default)s)")
    slices = _command(data, "slices", _data_slices, "write axial slices and masks as PNG",
                      "medkd data slices Task09_Spleen --out slices --window -125 275")  # fmt: skip
    slices.add_argument("folder", type=Path, metavar="DIR")
    slices.add_argument("--out", required=True, type=Path, metavar="DIR")
    slices.add_argument("--window", type=float, nargs=2, default=(-125.0, 275.0), metavar=("LOW", "HIGH"),
                        help="HU that become black and white (-125 275)")  # fmt: skip
    slices.add_argument("--size", type=int, metavar="N", help="resize to N x N; the scan's matrix by default")


def _study_commands(commands: Any) -> None:
    study = commands.add_parser("study", help="train and compare many models").add_subparsers(
        dest="study_command", required=True, metavar="COMMAND"
    )
    run = _command(study, "run", _study_run, "do every run of a study that is not done, and write its report",
                   "medkd study run mtms_tables --scale smoke --out study")  # fmt: skip
    run.add_argument("study", metavar="STUDY", help="a study file, or a name that medkd study list shows")
    run.add_argument("--out", required=True, type=Path, metavar="DIR",
                     help="folder for runs and report; several studies may share it")  # fmt: skip
    run.add_argument("--scale", choices=("smoke", "small", "full"), default="small",
                     help="smoke: minutes; small: hours on a CPU; full: as published (%(default)s)")  # fmt: skip
    run.add_argument("--data", type=Path, metavar="DIR",
                     help="task folder in Decathlon layout; the one that the study names by default")  # fmt: skip
    run.add_argument("--jobs", type=int, metavar="N",
                     help="runs at a time; as many as the cores allow by default, one on a GPU")  # fmt: skip
    run.add_argument("--retry", action="store_true", help="try again those that failed")
    run.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="let Ray do the runs, on the cluster at ADDRESS, whose nodes must all see --out and the data under the "
        "same path, or on this machine",
    )
    report = _command(study, "report", _study_report, "write the reports of the studies in a folder",
                      "medkd study report study")  # fmt: skip
    report.add_argument("folder", type=Path, metavar="DIR", help="the --out of medkd study run")
    _command(study, "list", _study_list, "list the studies that come with medkd", "medkd study list")


def _command(
    commands: Any, name: str, run: Callable[[Any], int], summary: str, example: str, config: str | None = None
) -> argparse.ArgumentParser:
    note = f"\n\n{RECIPE_NOTE.format(config=config)}" if config else ""
    parser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"Example: {example}.{note}",
        allow_abbrev=False,
    )  # fmt: skip
    parser.set_defaults(run=run, overridable=config is not None)
    return parser


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="task folder in Decathlon layout")
    parser.add_argument("--download", action="store_true", help="fetch the task through MONAI if the folder is missing")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder for the run")


def _recipe_overrides(options: argparse.Namespace) -> dict[str, Any]:
    overrides: dict[str, Any] = {"dataset_dir": str(options.data)}
    if options.download:
        overrides["download"] = True
    return overrides


def _train(options: argparse.Namespace) -> int:
    from medkd.bundle import STUDENT, TEACHER
    from medkd.networks import network_entry
    from medkd.networks.registry import MONAI_NETWORKS
    from medkd.recipes import run_recipe

    is_stock = options.network.startswith(MONAI_NETWORKS)
    role = options.role or ("teacher" if is_stock else network_entry(options.network).role)
    overrides = {**_recipe_overrides(options), "network_name": options.network, **options.overrides}
    return _report_run(run_recipe(TEACHER if role == "teacher" else STUDENT, "train", overrides, options.out))


def _pretrain(options: argparse.Namespace) -> int:
    from medkd.bundle import TEACHER
    from medkd.recipes import run_recipe

    overrides = {**_recipe_overrides(options), "network_name": options.network, **options.overrides}
    return _report_run(run_recipe(TEACHER, "pretrain", overrides, options.out))


def _distill(options: argparse.Namespace) -> int:
    from medkd.bundle import STUDENT
    from medkd.recipes import run_recipe

    overrides = {
        **_recipe_overrides(options),
        "teacher_run": str(options.teacher),
        "network_name": options.student,
        **options.overrides,
    }
    return _report_run(run_recipe(STUDENT, "distill", overrides, options.out, options.method))


def _report_run(run: Path) -> int:
    from medkd.methods import format_terms
    from medkd.run_folder import HISTORY_FILE

    history = json.loads((run / HISTORY_FILE).read_text(encoding="utf-8"))
    best = max((row for row in history if "val_dice" in row), key=lambda row: row["val_dice"], default=None)
    figures = "" if best is None else f", best validation Dice {best['val_dice']:.3f} in epoch {best['epoch']}"
    print(f"{run}: {len(history)} epochs{figures}")
    if "gradient" in history[-1]:
        print(format_terms(history[-1]))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from medkd.data import DecathlonTask
    from medkd.engines import run_split_file
    from medkd.files import write_json
    from medkd.inference import Segmenter, evaluate, format_evaluation

    segmenter = Segmenter.load(options.model)
    task = DecathlonTask.load(options.data)
    file = None if options.split == "all" else run_split_file(options.model)
    report = evaluate(segmenter, task.part(options.split, file=file), task.labels)
    if options.json:
        write_json(options.json, {"model": str(options.model), "split": options.split, **report})
    print(format_evaluation(report, options.model))
    return 0


def _infer(options: argparse.Namespace) -> int:
    from medkd.inference import Segmenter, segment_files

    failures = segment_files(Segmenter.load(options.model), options.inputs, options.out)
    for sentence in failures:
        _fail(sentence, 2)
    if not failures:
        return 0
    return 2 if len(failures) == len(options.inputs) else 1


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


def _data_info(options: argparse.Namespace) -> int:
    from medkd.data.inspect import format_inspection, inspect_task

    report = inspect_task(options.folder)
    print(json.dumps(report, indent=2) if options.json else format_inspection(report))
    return 0


def _data_phantom(options: argparse.Namespace) -> int:
    from medkd.data.phantom import write_phantom_task

    write_phantom_task(options.out, options.volumes, options.seed)
    print(f"{options.out}: {options.volumes} volumes")
    return 0


def _data_slices(options: argparse.Namespace) -> int:
    from medkd.data.png import export_slices

    export_slices(options.folder, options.out, tuple(options.window), options.size)
    print(f"{options.out}: images, masks and conversion.json")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from medkd.study.demo import run_demo

    run_demo(options.out)
    return 0


def _study_run(options: argparse.Namespace) -> int:
    from medkd.study.progress import format_outcome
    from medkd.study.runner import run_study
    from medkd.study.study_file import load_study

    study = load_study(options.study, options.scale, options.data)
    outcome = run_study(study, options.out, options.jobs, options.retry, options.ray)
    # It needs what takes long to load, and the runs need not wait for that.
    from medkd.study.report import write_study_report

    for file in write_study_report(options.out, study):
        print(file)
    if outcome.is_complete:
        return 0
    print(format_outcome(outcome), file=sys.stderr)
    return 1


def _study_report(options: argparse.Namespace) -> int:
    from medkd.study.report import report_folder

    for file in report_folder(options.folder):
        print(file)
    return 0


def _study_list(options: argparse.Namespace) -> int:
    from medkd.study.listing import format_ready_studies

    print(format_ready_studies())
    return 0


if __name__ == "__main__":
    sys.exit(main())
