"""A cohort of bad scans with two good ones: each bad one gets a sentence that names it, the good ones their masks."""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from medkd.cli import main
from medkd.data import Preprocessing
from medkd.engines import SavedModel
from medkd.networks import create_network, network_definition
from tests.data.dicom_series import ct_values, write_series

AFFINE = np.diag([-2.0, 2.0, 5.0, 1.0])
GOOD = np.random.default_rng(0).normal(0, 50, (20, 18, 4)).astype(np.int16)


def nifti(array: np.ndarray = GOOD, affine: np.ndarray | None = AFFINE, **fields: object) -> bytes:
    """A NIfTI file; ``fields`` of its header are set as they stand, however wrong."""
    content = bytearray(nibabel.Nifti1Image(array, affine).to_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    return bytes(content)


def packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def spoiled(values: dict[tuple[int, int, int], float]) -> np.ndarray:
    array = GOOD.astype(np.float32)
    for place, value in values.items():
        array[place] = value
    return array


RGB = np.zeros((4, 4, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
SINGULAR = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
RAW = np.arange(24, dtype="<i2").tobytes()
NRRD = "NRRD0004\ntype: int16\ndimension: {dimension}\nsizes: {sizes}\nendian: little\nencoding: raw\n{more}\n\n"
DIRECTIONS = "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) {last}\nspace origin: (0,0,0)"
META = "ObjectType = Image\nNDims = {dims}\nDimSize = {size}\nElementType = {kind}\nElementDataFile = {file}\n"


def nrrd(dimension: int = 3, sizes: str = "2 3 4", last: str = "(0,0,1)", voxels: bytes = RAW, more: str = "") -> bytes:
    more = more or DIRECTIONS.format(last=last)
    return NRRD.format(dimension=dimension, sizes=sizes, more=more).encode() + voxels


def meta(
    dims: int = 3, size: str = "2 3 4", kind: str = "MET_SHORT", file: str = "LOCAL", voxels: bytes = RAW
) -> bytes:
    return META.format(dims=dims, size=size, kind=kind, file=file).encode() + voxels


FILES: dict[str, bytes] = {
    "empty.nii.gz": b"",
    "gzip_cut_off.nii.gz": packed(nifti())[:-200],
    "gzip_wrong_checksum.nii.gz": packed(nifti())[:-8] + b"\0\0\0\0" + packed(nifti())[-4:],
    "gzip_changed_inside.nii.gz": packed(nifti())[:600] + b"\xff" * 40 + packed(nifti())[640:],
    "gzip_header_only.nii.gz": packed(nifti())[:12],
    "gzip_twice.nii.gz": packed(packed(nifti())),
    "bzip2.nii.gz": bz2.compress(nifti()),
    "text.nii.gz": b"this is a note, not a scan\n" * 40,
    "web_page.nii.gz": b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 10,
    "cut_off.nii": nifti()[:-100],
    "half_a_header.nii": nifti()[:100],
    "header_only.nii": nifti()[:352],
    "wrong_magic.nii": nifti(magic=b"abc"),
    "pair_without_its_image.nii": nifti(magic=b"ni1"),
    "zero_axis.nii.gz": packed(nifti(dim=[3, 20, 0, 4, 1, 1, 1, 1])),
    "negative_axis.nii": nifti(dim=[3, 20, -18, 4, 1, 1, 1, 1]),
    "no_dimensions.nii": nifti(dim=[0, 0, 0, 0, 0, 0, 0, 0]),
    "nine_dimensions.nii": nifti(dim=[9, 20, 18, 4, 1, 1, 1, 1]),
    "huge.nii": nifti(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]),
    "huge.nii.gz": packed(nifti(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])),
    "time_series.nii.gz": packed(nifti(np.zeros((8, 8, 4, 3), np.int16))),
    "one_picture.nii.gz": packed(nifti(np.zeros((8, 8), np.int16))),
    "rgb.nii.gz": packed(nibabel.Nifti1Image(RGB, AFFINE).to_bytes()),
    "complex.nii.gz": packed(nifti(GOOD.astype(np.complex64))),
    "unknown_type.nii": nifti(datatype=9999),
    "voxels_begin_in_the_header.nii": nifti(vox_offset=100),
    "voxels_begin_nowhere.nii": nifti(vox_offset=np.nan),
    "voxels_begin_far_away.nii": nifti(vox_offset=1e12),
    "nan.nii.gz": packed(nifti(spoiled({(1, 2, 3): np.nan}))),
    "infinite.nii.gz": packed(nifti(spoiled({(0, 0, 0): -np.inf}))),
    "too_large_for_float32.nii.gz": packed(nifti(spoiled({(0, 0, 0): 1}).astype(np.float64) * 1e300)),
    "one_value.nii.gz": packed(nifti(np.full((8, 8, 4), 7, np.int16))),
    "scaled_beyond_float32.nii": nifti(scl_slope=1e38, scl_inter=0),
    "singular_affine.nii.gz": packed(nifti(affine=SINGULAR)),
    "nan_affine.nii.gz": packed(nifti(srow_x=[np.nan, 0, 0, 0])),
    "scaled_by_nan.nii": nifti(scl_slope=1, scl_inter=np.nan),
    "in_metres.nii": nifti(xyzt_units=1),
    "no_voxel_size.nii": nifti(sform_code=0, qform_code=0, pixdim=[1, 0, 0, 0, 0, 0, 0, 0]),
    "cut_off.nrrd": nrrd(voxels=RAW[:-9]),
    "wrong_magic.nrrd": b"NRRX" + nrrd()[4:],
    "picture.nrrd": nrrd(2, "4 6", more="space dimension: 2"),
    "time_series.nrrd": nrrd(4, "2 3 2 2", more="space: left-posterior-superior"),
    "singular.nrrd": nrrd(last="(0,1,0)"),
    "huge.nrrd": nrrd(sizes="99999999 99999999 99999999"),
    "zero_axis.nrrd": nrrd(sizes="2 0 4"),
    "other_file.nrrd": nrrd(more=DIRECTIONS.format(last="(0,0,1)") + "\ndata file: /etc/passwd"),
    "cut_off.mha": meta(voxels=RAW[:-9]),
    "no_size.mha": b"ObjectType = Image\nNDims = 3\nElementType = MET_SHORT\nElementDataFile = LOCAL\n" + RAW,
    "huge.mha": meta(size="99999999 99999999 99999999"),
    "picture.mha": meta(2, "4 6"),
    "unknown_type.mha": meta(kind="MET_STRING"),
    "missing_voxels.mhd": meta(file="nowhere.raw", voxels=b""),
    "voxels_elsewhere.mhd": meta(file="/etc/passwd", voxels=b""),
}


def drop(keyword: str) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, index: int) -> None:
        delattr(dataset, keyword)

    return edit


def change(at: int, **values: object) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, index: int) -> None:
        if index == at:
            for keyword, value in values.items():
                setattr(dataset, keyword, value)

    return edit


def colour(dataset: Dataset, index: int) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = b"\0" * (dataset.Rows * dataset.Columns * 3 + dataset.Rows * dataset.Columns * 3 % 2)


def cut_pixels(dataset: Dataset, index: int) -> None:
    if index == 2:
        dataset.PixelData = dataset.PixelData[:20]


SERIES: dict[str, Callable[[Dataset, int], None]] = {
    "series_without_pixels": drop("PixelData"),
    "series_without_positions": drop("ImagePositionPatient"),
    "series_without_directions": drop("ImageOrientationPatient"),
    "series_with_pixels_cut_off": cut_pixels,
    "series_of_two_directions": change(1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
    "series_of_two_spacings": change(1, PixelSpacing=[0.5, 0.5]),
    "series_with_a_gap": change(3, ImagePositionPatient=[-100, -120, 60]),
    "series_with_two_slices_at_one_place": change(2, ImagePositionPatient=[-100, -120, 42.5]),
    "series_in_colour": colour,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: what it finds does not matter here."""
    network = create_network("unet_s1", channels=(4, 8))
    folder = tmp_path_factory.mktemp("model")
    saved = SavedModel(network_definition(network), Preprocessing(size=32), {0: "background", 1: "spleen"})
    saved.save(folder, network.state_dict())
    return folder


def write_bad(folder: Path) -> set[str]:
    """Write every bad scan; returns their names."""
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    for name, edit in SERIES.items():
        write_series(folder / name, ct_values(), edit=edit)
    (folder / "series_of_text").mkdir()
    (folder / "series_of_text" / "1.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"nonsense" * 20)
    (folder / "nowhere.nii.gz").symlink_to(folder / "gone.nii.gz")
    (folder / "itself.nii.gz").symlink_to(folder / "itself.nii.gz")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "pipe.nii.gz")
    (folder / "folder.nii.gz").mkdir()
    others = {"series_of_text", "nowhere", "itself", "pipe"}
    stems = {name.removesuffix(".gz").rsplit(".", 1)[0] for name in FILES}
    return stems | set(SERIES) | others


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All bad scans and two good ones."""
    folder = tmp_path_factory.mktemp("scans")
    nibabel.save(nibabel.Nifti1Image(GOOD, AFFINE), folder / "aa_good.nii.gz")
    nibabel.save(nibabel.Nifti1Image(GOOD[:, :, :1], AFFINE), folder / "zz_good_one_slice.nii.gz")
    write_bad(folder)
    return folder


def separate(folder: Path) -> list[Path]:
    """Files whose names differ only in their suffix would be named alike: each bad scan is given by itself."""
    return sorted(path for path in folder.iterdir() if path.name not in ("loop", "folder.nii.gz"))


def test_each_bad_scan_is_told_and_the_good_ones_are_done(scans, model, tmp_path, capsys) -> None:
    failed = 0
    for index, path in enumerate(separate(scans)):
        target = tmp_path / str(index)
        code = main(["infer", str(model), str(path), "--out", str(target), "--backend", "torch"])
        printed = capsys.readouterr()
        said = printed.err + printed.out
        assert "Traceback" not in said and "failed inside" not in said, f"{path.name}: {said}"
        if path.name.startswith(("aa_good", "zz_good")):
            assert code == 0 and len(list(target.glob("*_seg.nii.gz"))) == 1
            continue
        failed += 1
        assert code in (1, 2), path.name
        lines = [line for line in printed.err.splitlines() if line.startswith("medkd: ")]
        assert len(lines) == 1 and path.name in lines[0] and lines[0].endswith("."), f"{path.name}: {said}"
        assert not [file for file in target.rglob("*") if "_seg" in file.name or file.name.startswith(".writing")]
    assert failed == len(FILES) + len(SERIES) + 4


def test_one_cohort_of_them_all_goes_to_its_end(model, tmp_path, capsys) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(GOOD, AFFINE), folder / "aa_good.nii.gz")
    nibabel.save(nibabel.Nifti1Image(GOOD, AFFINE), folder / "zz_good.nii.gz")
    bad = write_bad(folder)
    for name in ("cut_off.nii", "huge.nii", "huge.nrrd", "wrong_magic.nii", "cut_off.nrrd", "zero_axis.nrrd",
                 "unknown_type.mha", "time_series.nrrd", "picture.mha", "huge.mha"):  # fmt: skip
        (folder / name).unlink()  # Another of its name is there.
    out = tmp_path / "out"
    assert main(["infer", str(model), str(folder), "--out", str(out), "--backend", "torch"]) == 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    masks = sorted(path.name for path in out.glob("*_seg.nii.gz"))
    assert masks == ["aa_good_seg.nii.gz", "zz_good_seg.nii.gz"]
    lines = [line for line in printed.err.splitlines() if str(folder) in line]
    told = {line.split(str(folder))[1].split()[0].strip("/:,") for line in lines}
    assert len(told) >= 40 and len([line for line in printed.err.splitlines() if line]) >= len(bad) - 12
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == []


def test_one_slice_is_a_scan(model, tmp_path) -> None:
    nibabel.save(nibabel.Nifti1Image(GOOD[:, :, :1], AFFINE), tmp_path / "one.nii.gz")
    assert main(["infer", str(model), str(tmp_path / "one.nii.gz"), "--out", str(tmp_path / "out")]) == 0
    assert nibabel.load(tmp_path / "out" / "one_seg.nii.gz").shape == (20, 18, 1)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def malicious_pickle(folder: Path) -> None:
    import torch

    torch.save({"weight": Malicious(folder / "witness")}, folder / "model.pt")


def plain_pickle(folder: Path) -> None:
    import pickle

    (folder / "model.pt").write_bytes(pickle.dumps(Malicious(folder / "witness")))


def other_network(folder: Path) -> None:
    import torch

    torch.save(create_network("unet_s1", channels=(8, 16)).state_dict(), folder / "model.pt")


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def described(old: str, new: str) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        content = (folder / "model.json").read_text()
        assert old in content
        (folder / "model.json").write_text(content.replace(old, new))

    return edit


MODELS: dict[str, Callable[[Path], object]] = {
    "malicious pickle of torch": malicious_pickle,
    "malicious pickle": plain_pickle,
    "weights of another network": other_network,
    "weights cut off": lambda folder: os.truncate(folder / "model.pt", 1000),
    "empty weights": lambda folder: os.truncate(folder / "model.pt", 0),
    "text for weights": text("model.pt", "no weights"),
    "no weights": lambda folder: (folder / "model.pt").unlink(),
    "no description": lambda folder: (folder / "model.json").unlink(),
    "description cut off": lambda folder: os.truncate(folder / "model.json", 40),
    "description of a list": text("model.json", "[1, 2]"),
    "description in another encoding": lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe{}"),
    "unknown network": described('"unet_s1"', '"unet_s9"'),
    "network outside of MONAI's": described('"unet_s1"', '"os.system"'),
    "unknown argument of the network": described('"channels"', '"chanels"'),
    "unknown preprocessing": described('"size"', '"sise"'),
    "preprocessing without sense": described("32", "-5"),
    "size that is text": described(": 32", ': "large"'),
    "labels without a number": described('"1": "spleen"', '"one": "spleen"'),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_cannot_be_used_is_told_before_any_scan(case: str, model: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    MODELS[case](broken)
    nibabel.save(nibabel.Nifti1Image(GOOD, AFFINE), tmp_path / "scan.nii.gz")
    for backend in ("torch", "auto"):
        out = tmp_path / f"out_{backend}"
        command = ["infer", str(broken), str(tmp_path / "scan.nii.gz"), "--out", str(out), "--backend", backend]
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.startswith("medkd: ") and said.count("\n") == 1 and "failed inside" not in said, said
        assert str(tmp_path) in said or "network" in said
        assert not list(out.glob("*_seg*"))
    assert not (broken / "witness").exists()


def test_the_malicious_pickles_would_run_code(tmp_path: Path) -> None:
    """The control: loaded as pickles they leave their witness."""
    import torch

    malicious_pickle(tmp_path)
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.nii.gz"], "does not exist"),
        (["empty"], "holds no scan"),
        (["list.txt"], "line 2"),
        (["scan.nii.gz", "scan.nii.gz"], "both"),
        (["scan.nii.gz", "--workers", "0"], "1 or more"),
        (["scan.nii.gz", "--threads", "0"], "1 or more"),
        (["scan.nii.gz", "--device", "cuda:99", "--backend", "torch"], "cuda:99"),
        (["scan.nii.gz", "--device", "cuda", "--backend", "onnx"], "onnx runs on the processor"),
    ],
)
def test_a_wrong_command_is_told_in_a_sentence(arguments, sentence, model, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    nibabel.save(nibabel.Nifti1Image(GOOD, AFFINE), "scan.nii.gz")
    Path("empty").mkdir()
    Path("list.txt").write_text("scan.nii.gz\nnowhere.nii.gz\n")
    assert main(["infer", str(model), *arguments, "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("medkd: ") and said.count("\n") == 1


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_a_wrong_shard_is_told(shard, model, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["infer", str(model), "x.nii.gz", "--out", "out", "--shard", shard])
    assert stopped.value.code == 2 and "1/4" in capsys.readouterr().err


def test_an_output_folder_that_is_a_file_is_told(model, tmp_path, capsys) -> None:
    nibabel.save(nibabel.Nifti1Image(GOOD, AFFINE), tmp_path / "scan.nii.gz")
    (tmp_path / "out").write_text("taken")
    assert main(["infer", str(model), str(tmp_path / "scan.nii.gz"), "--out", str(tmp_path / "out")]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err


def test_a_full_disk_fails_the_scan_and_leaves_nothing_of_it(model, tmp_path, monkeypatch, capsys) -> None:
    from medkd.inference import segmentation

    class Full:
        def __init__(self, *arguments: object, **others: object) -> None:
            raise OSError(28, "No space left on device")

    nibabel.save(nibabel.Nifti1Image(GOOD, AFFINE), tmp_path / "scan.nii.gz")
    monkeypatch.setattr(segmentation.igzip, "IGzipFile", Full)
    code = main(["infer", str(model), str(_uncompressed(tmp_path)), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert code == 1 and "No space left on device" in said and "Traceback" not in said
    assert not [file for file in (tmp_path / "out").rglob("*") if "scan" in file.name or ".writing" in file.name]


def _uncompressed(folder: Path) -> Path:
    path = folder / "scan.nii"
    path.write_bytes(nifti())
    (folder / "scan.nii.gz").unlink()
    return path


def test_an_unspoiled_series_is_segmented(model, tmp_path) -> None:
    """The control of the bad series: unedited, one is segmented."""
    paths = write_series(tmp_path / "series", ct_values())
    assert dcmread(paths[0]).Modality == "CT"
    assert main(["infer", str(model), str(tmp_path / "series"), "--out", str(tmp_path / "out")]) == 0
