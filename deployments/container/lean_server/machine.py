"""What the container runs on: CPUs, memory and the time since its start. No serverless endpoint's CPU is documented."""

import os
import platform
import resource
import sys
import time
from pathlib import Path

#: What int8 arithmetic is fast with, as Linux names it, for x86 and Arm.
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
_IMPORTED = time.perf_counter()


def count_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many CPUs this process may keep busy: its affinity, within the container's quota rounded down.

    A quota of 1.5 CPUs counts as one: threads that are stopped in turn wait for each other.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip()
                for name in ("quota", "period")
            )
        limit = int(quota) // int(period) if quota not in ("max", "-1") else count
    except (OSError, ValueError):
        return count
    return max(1, min(count, limit))


def describe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's name, what it has for int8, and how many threads are set; no endpoint's CPU is documented."""
    fields: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip()
    except OSError:
        pass
    flags = set((fields.get("flags") or fields.get("features") or "").split())
    known = " ".join(flag for flag in CPU_FLAGS if flag in flags) or "none of the known int8 flags"
    name = fields.get("model name") or platform.processor() or platform.machine()
    threads = os.environ.get("ASKLINE_THREADS") or os.environ.get("OMP_NUM_THREADS") or "?"
    return f"CPU {name} ({known}), {count_cpus()} usable, {threads} threads"


def process_seconds() -> float:
    """Return the seconds since the operating system started this process, the interpreter's own start included."""
    try:
        started = int(Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return time.perf_counter() - _IMPORTED


def peak_mb() -> float:
    """Return the process's largest resident memory so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
