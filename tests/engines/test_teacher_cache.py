"""The files of a teacher's outputs: read back, bounded, and never in the way of a training."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from medkd.engines import TeacherCache
from medkd.errors import UserError

MAP = np.arange(2000, dtype=np.float16).reshape(20, 10, 10)
# A file has a header beside the map; a limit of three and a half maps has room for three of them.
ROOM_FOR_THREE = 3.5 * MAP.nbytes / 1e9


def volume(name: str) -> str:
    return f"teacher-key/bottleneck-8x8/{name}"


def kept(folder: Path) -> set[str]:
    """What lies in the cache, as volume/row."""
    return {f"{file.parent.name}/{file.stem}" for file in folder.rglob("*.npy")}


def aged(folder: Path, name: str, seconds: float) -> None:
    """Make a volume's folder look as if it was last used at some time."""
    os.utime(folder / "teacher" / volume(name), (seconds, seconds))


def test_what_was_written_is_read_memory_mapped(tmp_path):
    cache = TeacherCache(tmp_path)
    assert cache.read(volume("a"), "3") is None
    cache.write(volume("a"), "3", MAP)
    for reader in (cache, TeacherCache(tmp_path)):
        found = reader.read(volume("a"), "3")
        assert isinstance(found, np.memmap) and found.mode == "r"
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, MAP)
        assert reader.read(volume("a"), "4") is None
        assert reader.read(volume("b"), "3") is None
    assert kept(tmp_path) == {"a/3"}, "and no temporary file"


def test_a_newer_map_takes_the_place_of_an_older_one(tmp_path):
    cache = TeacherCache(tmp_path)
    cache.write(volume("a"), "0", MAP)
    old = cache.read(volume("a"), "0")
    cache.write(volume("a"), "0", MAP + 1)
    np.testing.assert_array_equal(cache.read(volume("a"), "0"), MAP + 1)
    np.testing.assert_array_equal(old, MAP)


def test_it_lies_in_the_cache_folder_of_the_environment_unless_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDKD_CACHE", str(tmp_path / "elsewhere"))
    TeacherCache().write(volume("a"), "0", MAP)
    assert kept(tmp_path / "elsewhere" / "teacher") == {"a/0"}


def header_with(old: bytes, new: bytes):
    return lambda content: content.replace(old, new)


def other(array: np.ndarray):
    """The file of another array."""

    def content(_: bytes) -> bytes:
        path = Path(os.environ["MEDKD_CACHE"])
        path.mkdir(parents=True, exist_ok=True)
        np.save(path / "other.npy", array)
        return (path / "other.npy").read_bytes()

    return content


DAMAGES = {
    "empty": lambda content: b"",
    "the header cut": lambda content: content[:40],
    "only the header": lambda content: content[:128],
    "one byte short": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"not a map",
    "a header without an end": header_with(b"10), }", b"10\x88, }"),
    "a larger shape": header_with(b"(20, 10, 10)", b"(90, 10, 10)"),
    "an impossible shape": header_with(b"(20, 10, 10)", b"(20, -1, 10)"),
    "float32": other(MAP.astype(np.float32)),
    "big-endian": other(MAP.astype(">f2")),
    "integers": other(np.arange(5)),
    "objects": other(np.array([{}, None], dtype=object)),
    "an archive's first bytes": lambda content: b"PK\x03\x04" + content,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_like_none_and_is_written_anew(tmp_path, damage):
    cache = TeacherCache(tmp_path)
    cache.write(volume("a"), "0", MAP)
    file = tmp_path / "teacher" / volume("a") / "0.npy"
    damaged = DAMAGES[damage](file.read_bytes())
    assert damaged != file.read_bytes()
    file.write_bytes(damaged)
    assert cache.read(volume("a"), "0") is None
    cache.write(volume("a"), "0", MAP)
    np.testing.assert_array_equal(cache.read(volume("a"), "0"), MAP)


def test_a_half_written_file_of_a_killed_run_is_like_none(tmp_path):
    folder = tmp_path / "teacher" / volume("a")
    folder.mkdir(parents=True)
    np.save(folder / ".writing-x1y2-0.npy", MAP)
    cache = TeacherCache(tmp_path)
    assert cache.read(volume("a"), "0") is None
    cache.write(volume("a"), "0", MAP + 1)
    np.testing.assert_array_equal(cache.read(volume("a"), "0"), MAP + 1)


def test_the_volumes_used_longest_ago_make_room(tmp_path):
    first = TeacherCache(tmp_path)
    for name in ("new", "old", "middle"):
        first.write(volume(name), "0", MAP)
    for name, seconds in (("new", 3000), ("old", 1000), ("middle", 2000)):
        aged(tmp_path, name, seconds)
    second = TeacherCache(tmp_path, ROOM_FOR_THREE)
    second.write(volume("x"), "0", MAP)
    assert kept(tmp_path) == {"new/0", "middle/0", "x/0"}
    second.write(volume("x"), "1", MAP)
    assert kept(tmp_path) == {"new/0", "x/0", "x/1"}


def test_a_whole_volume_goes_at_once(tmp_path):
    first = TeacherCache(tmp_path)
    for row in ("0", "1"):
        first.write(volume("old"), row, MAP)
    first.write(volume("new"), "0", MAP)
    aged(tmp_path, "old", 1000)
    aged(tmp_path, "new", 2000)
    TeacherCache(tmp_path, ROOM_FOR_THREE).write(volume("x"), "0", MAP)
    assert kept(tmp_path) == {"new/0", "x/0"}


def test_reading_counts_as_use_for_later_runs(tmp_path):
    first = TeacherCache(tmp_path)
    for seconds, name in enumerate(("a", "b", "c")):
        first.write(volume(name), "0", MAP)
        aged(tmp_path, name, 1000 + seconds)
    TeacherCache(tmp_path).read(volume("a"), "0")
    TeacherCache(tmp_path, ROOM_FOR_THREE).write(volume("x"), "0", MAP)
    assert kept(tmp_path) == {"a/0", "c/0", "x/0"}


def test_what_this_run_uses_stays_and_what_finds_no_room_is_not_kept(tmp_path):
    first = TeacherCache(tmp_path)
    for name in ("a", "b", "c"):
        first.write(volume(name), "0", MAP)
        aged(tmp_path, name, 1000)
    cache = TeacherCache(tmp_path, ROOM_FOR_THREE)
    assert cache.read(volume("a"), "0") is not None
    cache.read(volume("b"), "7")  # Asked for in vain: it is used all the same.
    cache.write(volume("x"), "0", MAP)
    assert kept(tmp_path) == {"a/0", "b/0", "x/0"}
    cache.write(volume("x"), "1", MAP)
    assert kept(tmp_path) == {"a/0", "b/0", "x/0"}
    assert cache.read(volume("x"), "1") is None
    np.testing.assert_array_equal(cache.read(volume("a"), "0"), MAP)


def test_a_map_larger_than_the_limit_removes_nothing(tmp_path):
    TeacherCache(tmp_path).write(volume("old"), "0", MAP)
    TeacherCache(tmp_path, 1.5 * MAP.nbytes / 1e9).write(volume("x"), "0", np.tile(MAP, (2, 1, 1)))
    assert kept(tmp_path) == {"old/0"}


@pytest.mark.parametrize("side", (4, 100))
def test_all_files_together_stay_under_the_limit(tmp_path, side):
    """Also where a file's header is larger than its map."""
    small = np.ones((side, side), np.float16)
    limit = 20 * small.nbytes
    for run in range(3):
        cache = TeacherCache(tmp_path, limit / 1e9)
        for row in range(30):
            cache.write(volume(f"run{run}"), str(row), small)
    sizes = [file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()]
    assert 0 < len(sizes) < 30
    assert sum(sizes) <= limit


def test_a_map_that_is_written_again_takes_its_room_once(tmp_path):
    cache = TeacherCache(tmp_path, ROOM_FOR_THREE)
    for _ in range(3):
        cache.write(volume("a"), "0", MAP)
    cache.write(volume("a"), "1", MAP)
    assert kept(tmp_path) == {"a/0", "a/1"}


def test_a_limit_of_nothing_keeps_nothing(tmp_path):
    cache = TeacherCache(tmp_path, 0)
    cache.write(volume("a"), "0", MAP)
    assert cache.read(volume("a"), "0") is None
    assert not list(tmp_path.iterdir())


def test_a_negative_limit_is_told(tmp_path):
    with pytest.raises(UserError, match=r"-1 GB: give 0 or more"):
        TeacherCache(tmp_path, -1)


def a_file_in_the_way(folder: Path) -> None:
    (folder / "teacher").write_text("not a folder")


def a_file_in_the_way_of_a_volume(folder: Path) -> None:
    (folder / "teacher" / "teacher-key" / "bottleneck-8x8").mkdir(parents=True)
    (folder / "teacher" / volume("a")).write_text("not a folder")


def no_permission(folder: Path) -> None:
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")


@pytest.mark.parametrize("spoil", (a_file_in_the_way, a_file_in_the_way_of_a_volume, no_permission))
def test_what_cannot_be_written_is_told_once_and_the_run_goes_on(tmp_path, spoil):
    folder = tmp_path / "cache"
    folder.mkdir()
    spoil(folder)
    cache = TeacherCache(folder)
    assert cache.read(volume("a"), "0") is None
    with pytest.warns(UserWarning, match="computed anew: cannot write .*0.npy"):
        cache.write(volume("a"), "0", MAP)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.write(volume("a"), "1", MAP)
        assert cache.read(volume("a"), "0") is None


def test_what_was_kept_before_writing_failed_is_still_read(tmp_path):
    cache = TeacherCache(tmp_path)
    cache.write(volume("b"), "0", MAP)
    (tmp_path / "teacher" / volume("a")).write_text("not a folder")
    with pytest.warns(UserWarning, match="computed anew"):
        cache.write(volume("a"), "0", MAP)
    np.testing.assert_array_equal(cache.read(volume("b"), "0"), MAP)


def test_two_runs_share_one_folder(tmp_path):
    one, two = TeacherCache(tmp_path, ROOM_FOR_THREE), TeacherCache(tmp_path, ROOM_FOR_THREE)
    one.write(volume("a"), "0", MAP)
    np.testing.assert_array_equal(two.read(volume("a"), "0"), MAP)
    two.write(volume("b"), "0", MAP + 1)
    np.testing.assert_array_equal(one.read(volume("b"), "0"), MAP + 1)
    two.write(volume("a"), "0", MAP)
    np.testing.assert_array_equal(one.read(volume("a"), "0"), MAP)


def test_a_run_whose_volume_another_one_removed_goes_on(tmp_path):
    one = TeacherCache(tmp_path)
    one.write(volume("a"), "0", MAP)
    mapped = one.read(volume("a"), "0")
    aged(tmp_path, "a", 1000)
    two = TeacherCache(tmp_path, 1.5 * MAP.nbytes / 1e9)
    two.write(volume("b"), "0", MAP + 1)
    assert kept(tmp_path) == {"b/0"}
    np.testing.assert_array_equal(mapped, MAP)
    assert one.read(volume("a"), "0") is None
    one.write(volume("a"), "0", MAP)
    np.testing.assert_array_equal(one.read(volume("a"), "0"), MAP)


def test_a_file_that_another_run_removes_while_it_is_counted_is_passed_over(tmp_path):
    folder = tmp_path / "teacher" / volume("a")
    folder.mkdir(parents=True)
    # Listed, but gone when it is looked at: what a removal between the two looks like.
    (folder / "0.npy").symlink_to("gone")
    cache = TeacherCache(tmp_path)
    cache.write(volume("b"), "0", MAP)
    np.testing.assert_array_equal(cache.read(volume("b"), "0"), MAP)
