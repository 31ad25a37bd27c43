"""Freed memory is kept by the process; the peak of what it took is told."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from medkd import memory
from medkd.memory import PeakMemory, keep_freed_memory, process_memory

# A page fault is a page that the system had to hand out. Counted in a process of its own, whose memory is untouched.
COUNT = """
import json
import resource
import torch
from medkd.memory import keep_freed_memory

def faults(rounds=4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(1)
counts = {"default": faults(), "can keep": keep_freed_memory()}
faults(20)  # It takes some rounds until nothing small lies between the pieces that are kept.
counts["kept"] = faults()
print(json.dumps(counts))
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this choice")


@glibc
def test_kept_memory_is_not_fetched_again():
    found = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    counts = json.loads(found.stdout)
    assert counts["can keep"] is True
    # 64 MB are 16384 pages of 4 KB, or at least 32 of the largest that a system takes unasked.
    assert counts["default"] >= 4 * 32
    assert counts["kept"] < 4 * 16384 / 100
    assert counts["kept"] < counts["default"] / 10


@pytest.mark.skipif(platform.libc_ver()[0] == "glibc", reason="glibc has this choice")
def test_without_the_choice_nothing_happens():
    assert keep_freed_memory() is False


# In a process of its own, since tests before this one may have told this one to keep what it frees.
PEAKS = """
import json, threading
import numpy as np
from medkd.memory import PeakMemory, process_memory

np.ones(300 * 10**6, np.uint8)
PeakMemory()
own = (process_memory("VmHWM") or 0) - (process_memory("VmRSS") or 0) < 2**14
peak = PeakMemory()
start = peak.megabytes()
np.ones(200 * 10**6, np.uint8)
meanwhile = peak.megabytes() - start
afterwards = PeakMemory().megabytes() - start
peak = PeakMemory()
start = peak.megabytes()
thread = threading.Thread(target=lambda: np.ones(200 * 10**6, np.uint8))
thread.start()
thread.join()
print(json.dumps({"own": own, "meanwhile": meanwhile, "after": afterwards, "threads": peak.megabytes() - start}))
"""


def test_the_peak_is_of_what_was_taken_meanwhile_by_all_threads():
    found = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    peaks = json.loads(found.stdout)
    if not peaks["own"]:
        pytest.skip("this system cannot count a peak anew")
    assert 190 < peaks["meanwhile"] < 260 and 190 < peaks["threads"] < 260
    # What came before does not count.
    assert peaks["after"] < 60


def test_memory_in_units_of_the_kernel(tmp_path, monkeypatch):
    (tmp_path / "status").write_text("Name:\tVmHWM: x\nVmPeak:\t  99 kB\nVmHWM:\t  500000 kB\nVmRSS:\t 7 kB\n")
    (tmp_path / "clear_refs").write_text("")
    monkeypatch.setattr(memory, "_PROCESS", tmp_path)
    assert process_memory("VmRSS") == 7
    assert process_memory("VmSwap") is None
    # KiB to MB of a million bytes.
    assert PeakMemory().megabytes() == 512
    assert (tmp_path / "clear_refs").read_text() == "5"


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_without_proc_the_peak_is_that_of_the_process(platform, unit, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="only Unix has it")
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "none")
    monkeypatch.setattr(memory.sys, "platform", platform)
    expected = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    assert PeakMemory().megabytes() == pytest.approx(expected, rel=0.05, abs=1)


def test_where_nothing_tells_the_peak_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "none")
    monkeypatch.setitem(sys.modules, "resource", None)
    assert process_memory("VmRSS") is None
    assert PeakMemory().megabytes() is None
