"""Scans of a folder as the items of a MONAI data set, and where their masks go; for the bundles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medkd.errors import UserError


def scan_files(folder: str | Path) -> list[str]:
    """The NIfTI scans of a folder: those in its ``imagesTs``, the new scans of a Decathlon task, else its own.

    Raises:
        UserError: there is none.
    """
    inside = Path(folder) / "imagesTs"
    inside = inside if inside.is_dir() else Path(folder)
    scans = sorted(str(file) for file in inside.glob("*.nii*") if not file.name.startswith("."))
    if not scans:
        raise UserError(f"{inside} holds no NIfTI scan: give a folder of scans, or a task folder with imagesTs.")
    return scans


def scan_items(scans: Sequence[str | Path]) -> list[dict[str, str]]:
    """Scans as the items of a MONAI data set.

    Raises:
        UserError: there is none, or two have the same name, so that the mask of one would replace that of the other.
    """
    if isinstance(scans, str) or not scans:
        raise UserError(f"images is {scans!r}: give a list of files, such as '$sorted(glob.glob(\"scans/*.nii.gz\"))'.")
    names: dict[str, str | Path] = {}
    for scan in scans:
        name = mask_path(Path(scan), Path()).name
        if name in names:
            raise UserError(f"{scan} and {names[name]} would both write {name}: segment them to two folders.")
        names[name] = scan
    return [{"image": str(scan)} for scan in scans]


def mask_path(scan: Path, out: Path) -> Path:
    """Where the mask of a scan is written."""
    return out / f"{scan.name.removesuffix('.gz').removesuffix('.nii')}_seg.nii.gz"
