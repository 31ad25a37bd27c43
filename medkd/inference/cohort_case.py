"""One case of a cohort: what a worker does with it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
import traceback
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkd.errors import UserError
from medkd.inference.inputs import Scan
from medkd.inference.options import Options
from medkd.inference.outputs import new_workspace, write_outputs

if TYPE_CHECKING:
    from medkd.inference.segmenter import Segmenter


@dataclass(frozen=True)
class CohortSettings:
    """How every scan of a cohort is segmented.

    Attributes:
        model: folder of a run, or a bundle.
        backend: see :meth:`medkd.inference.segmenter.Segmenter.load`.
        device: see there.
        threads: of every worker; by default the cores are shared out among them, and with Ray each has one.
        options: what is done beside the network.
        preview: whether to draw a picture of every scan.
        dicom_seg: whether to write DICOM SEG for the scans that are DICOM series.
    """

    model: str
    backend: str = "auto"
    device: str | None = None
    threads: int | None = None
    options: Options = field(default_factory=Options)
    preview: bool = True
    dicom_seg: bool = True


@dataclass(frozen=True)
class Case:
    """A scan to segment.

    Attributes:
        scan: where it is.
        key: changes with all that its outputs depend on.
    """

    scan: Scan
    key: str


@dataclass(frozen=True)
class CaseResult:
    """What a worker has made of a case, or why it has not.

    Attributes:
        seconds: it took; None if nobody knows.
        error: the sentence, or None.
        workspace: holds the outputs; None if there are none.
        written: their kinds.
        measurements: of the scan.
        note: what is not as it should be, in a sentence, or None.
    """

    seconds: float | None
    error: str | None = None
    workspace: Path | None = None
    written: tuple[str, ...] = ()
    measurements: dict[str, Any] | None = None
    note: str | None = None


@lru_cache(maxsize=1)
def load_segmenter(settings: CohortSettings, model: str) -> Segmenter:
    """Load the model once in a process, and again when it has changed."""
    from medkd.inference.segmenter import Segmenter

    return Segmenter.load(settings.model, settings.backend, settings.device, settings.threads, settings.options)


def do_case(settings: CohortSettings, model: str, out: Path, case: Case) -> CaseResult | UserError:
    """Segment a scan and write its outputs to a workspace.

    Args:
        settings: how.
        model: hash of the model.
        out: folder of the cohort.
        case: what to segment.

    Returns:
        What came of it, or the error because of which no case at all can be done.
    """
    try:
        segmenter = load_segmenter(settings, model)
    except UserError as error:
        return error
    except Exception as error:
        return UserError(f"the model of {settings.model} cannot be loaded ({_reason(error)}).")
    started = time.perf_counter()
    workspace = None
    try:
        if not out.is_dir():
            raise UserError(
                f"{socket.gethostname()} does not see {out}: choose an --out on a file system that all nodes of the "
                "cluster share."
            )
        workspace = new_workspace(out, case.scan.name)
        result = segmenter(case.scan)
        written, note = write_outputs(
            segmenter, result, case.scan.name, workspace, preview=settings.preview, dicom_seg=settings.dicom_seg
        )
        json.dumps(result.measurements, allow_nan=False)
        return CaseResult(time.perf_counter() - started, None, workspace, written, result.measurements, note)
    except Exception as error:
        sentence = _sentence(error, case.scan)
        if os.environ.get("MEDKD_DEBUG"):
            traceback.print_exc()
        if workspace is not None:
            shutil.rmtree(workspace, ignore_errors=True)
            sentence = sentence.replace(str(workspace), str((out / case.scan.name).parent))
        return CaseResult(time.perf_counter() - started, sentence)


def _sentence(error: Exception, scan: Scan) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{scan.path} needs more memory than there is: give fewer --workers."
    return f"{scan.path} failed inside ({_reason(error)}): MEDKD_DEBUG=1 shows where."


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
