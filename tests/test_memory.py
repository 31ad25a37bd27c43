"""Freed memory is kept by the process."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from medkd.memory import keep_freed_memory

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
