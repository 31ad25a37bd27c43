"""Segments scan after scan, by one process or many: nothing is lost, repeated or left half done, whatever happens."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

from tqdm import tqdm

from medkd.errors import UserError
from medkd.files import unwritable
from medkd.inference.cohort_case import Case, CaseResult, CohortSettings, do_case, load_segmenter
from medkd.inference.inputs import Scan
from medkd.inference.manifest import Row, manifest_file, open_manifest, read_manifests
from medkd.inference.outputs import SUFFIXES, output_names, publish, remove_workspaces, withdraw
from medkd.inference.tables import write_tables
from medkd.workers import Died, Here, LocalWorkers, RayWorkers, Workers

# How the header of a MetaImage or NRRD file names the file of its voxels.
VOXELS_BESIDE = re.compile(rb"^(?:ElementDataFile *=|data ?file:)(.*)$", re.MULTILINE)
LARGEST_HEADER = 1 << 16


def run_cohort(
    settings: CohortSettings,
    scans: Sequence[Scan],
    out: str | Path,
    workers: int | None = None,
    shard: tuple[int, int] | None = None,
    ray: str | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Iterator[Row]:
    """Segment scans into a folder; a scan that fails is noted and the rest goes on.

    A mask that is there has its row in the manifest, and a scan is finished if its last row says so, its mask is there,
    and neither model nor options nor the scan have changed since. Whatever stops a run, the next one with ``resume``
    does what is not finished, that which failed too. Without it all is done anew.

    With several workers the processes import the program that calls this: call it under
    ``if __name__ == "__main__":``. A scan that crashes its process then fails alone.

    Args:
        settings: how each is segmented.
        scans: with different names.
        out: folder for masks, manifest, tables and report.
        workers: processes at a time, which a scan may crash without harm to the others; by default this process does
            all itself, and Ray as many as it has room for.
        shard: (i, n) for the i-th of n parts, from 1; the parts may run at the same time on several machines.
        ray: None to do without. Else the address of a Ray cluster, or nothing for the one of this machine, which is
            started if there is none; all its nodes must see the model, the scans and ``out`` under the same path.
        resume: leave out what is finished.
        progress: show a bar with the time left.

    Yields:
        The row of every scan when it has ended, as it stands in the manifest.

    Raises:
        UserError: the model cannot be used, ``out`` cannot be written to, another run is at the same manifest, or an
            argument is wrong.
    """
    from medkd.inference.backends.model_file import model_hash

    own = _part(scans, shard)
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}: give 1 or more.")
    out = Path(out).absolute()
    if ray is not None:
        own = [replace(scan, path=scan.path.absolute()) for scan in own]
    settings = replace(settings, model=str(Path(settings.model).absolute()))
    model = model_hash(settings.model)
    cases = [Case(scan, _key(settings, model, scan)) for scan in own]
    with open_manifest(manifest_file(out, shard)) as append:
        remove_workspaces(out, (scan.name for scan in own))
        earlier = read_manifests(out)
        left = [case for case in cases if not (resume and _is_finished(case, earlier.get(case.scan.name), out))]
        record = partial(_record, out=out, append=append)
        try:
            try:
                yield from _run(settings, model, left, out, workers, ray, progress, record)
            finally:
                load_segmenter.cache_clear()
                remove_workspaces(out, (scan.name for scan in own))
        except BaseException:
            with contextlib.suppress(UserError):
                write_tables(out)
            raise
        write_tables(out)


def _part(scans: Sequence[Scan], shard: tuple[int, int] | None) -> list[Scan]:
    """The scans of one shard, which depend on no order."""
    ordered = sorted(scans, key=lambda scan: scan.name)
    for scan, other in pairwise(ordered):
        if scan.name == other.name:
            raise UserError(f"{scan.path} and {other.path} are both named {scan.name}: segment them to two folders.")
    for scan in ordered:
        output_names(scan.name)
    if shard is None:
        return ordered
    number, count = shard
    if not 1 <= number <= count:
        raise UserError(f"--shard is {number}/{count}: give i/n with i from 1 to n.")
    return ordered[number - 1 :: count]


def _key(settings: CohortSettings, model: str, scan: Scan) -> str:
    """What the outputs of a scan depend on, and no more: the same on any number of threads and machines."""
    options = [asdict(settings.options), settings.preview, settings.dicom_seg]
    files = []
    with contextlib.suppress(OSError):  # Its reader tells.
        for file in scan.files or _files(scan.path):
            facts = file.stat()
            if stat.S_ISREG(facts.st_mode):
                files.append((file.name, facts.st_size, facts.st_mtime_ns))
    content = json.dumps([model, options, str(scan.path.absolute()), scan.series, files])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.iterdir())
    if path.suffix.lower() in (".mhd", ".nhdr"):
        with path.open("rb") as stream:
            named = VOXELS_BESIDE.search(stream.read(LARGEST_HEADER))
        if named:
            return [path, path.parent / os.fsdecode(named[1].strip())]
    return [path]


def _is_finished(case: Case, row: Row | None, out: Path) -> bool:
    return row is not None and row["state"] == "done" and row["key"] == case.key and (out / row["mask"]).is_file()


def _run(
    settings: CohortSettings,
    model: str,
    left: list[Case],
    out: Path,
    workers: int | None,
    ray: str | None,
    progress: bool,
    record: Callable[[Case, CaseResult | Died], Row],
) -> Iterator[Row]:
    if not left:
        return
    who = _hire(settings, model, out, workers, ray, len(left))
    bar = tqdm(
        total=len(left), desc="segmenting", unit="scan", ncols=80, leave=False, disable=None if progress else True
    )
    try:
        queue = iter(left)
        under_way, is_loaded = 0, False
        for case in islice(queue, who.size):
            who.start(case)
            under_way += 1
        while under_way:
            case, result = who.wait()
            under_way -= 1
            if isinstance(result, UserError):
                if not is_loaded:
                    raise result
                result = CaseResult(None, str(result))
            is_loaded = True
            following = next(queue, None)
            if following is not None:
                who.start(following)
                under_way += 1
            row = record(case, result)
            bar.update()
            yield row
    finally:
        who.stop()
        bar.close()


def _hire(
    settings: CohortSettings, model: str, out: Path, workers: int | None, ray: str | None, number: int
) -> Workers[Case, CaseResult | UserError]:
    from medkd.inference.backends.choose import usable_cores

    if ray is not None:
        threads = settings.threads or 1
        return RayWorkers(partial(do_case, replace(settings, threads=threads), model, out), ray, threads, workers)
    if workers is None:
        return Here(partial(do_case, settings, model, out))
    size = min(workers, number)
    threads = settings.threads or max(1, usable_cores() // size)
    return LocalWorkers(partial(do_case, replace(settings, threads=threads), model, out), size)


def _record(case: Case, result: CaseResult | Died, *, out: Path, append: Callable[[Row], None]) -> Row:
    """Put the outputs of a case in their places and note it, or note why there are none."""
    name = case.scan.name
    if isinstance(result, Died):
        hint = ", if memory ran out: give fewer --workers" if result.memory else ""
        result = CaseResult(None, f"{case.scan.path} cannot be segmented: {result.how}{hint}.")
    row = {
        "name": name,
        "scan": case.scan.path.name,
        "state": "done",
        "seconds": result.seconds and round(result.seconds, 3),
        "error": None,
        **{kind: path if kind in result.written else None for kind, path in output_names(name).items()},
        "measurements": result.measurements,
        "note": result.note,
        "key": case.key,
        "ended": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
    }
    error = result.error
    if result.workspace is not None:
        try:
            with publish(result.workspace, result.written, name, out):
                append(row)
            return row
        except OSError as problem:
            error = str(unwritable(out / name, problem))
    withdraw(name, out)
    remove_workspaces(out, [name])
    row |= {"state": "failed", "error": error, "measurements": None, "note": None, **dict.fromkeys(SUFFIXES)}
    append(row)
    return row
