"""Runs a Lambda function's process with what it needs of this machine, and no more.

::

    python -I -S sandbox.py FOLDER READABLE COMMAND ARGUMENT ...

The function may read the system's libraries and the READABLE folders (those of this Python, between colons), and write
in FOLDER, where it was unpacked; ``TMPDIR`` and ``HOME`` are there. It sees no other file, can send no signal to a
process outside, and where it is root's it has none of root's capabilities. The kernel holds it to that: Landlock (Linux
5.13, signals from 6.12), which needs no rights to be used. Where there is none (macOS, an older kernel), the function
runs with the rights of the person who started the cloud. Its network is not restricted: it has to reach the other
services.

Standard library only, and nothing of ours: it is started by its path.
"""

import ctypes
import os
import sys
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same number on every architecture
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPSET = {"x86_64": 126, "aarch64": 91}

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_READ = _EXECUTE | _READ_FILE | _READ_DIR
#: Rights over files that a version knows: 13 in the first, then REFER, TRUNCATE, and in the fifth IOCTL_DEV.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_SCOPES = 0b11  # abstract Unix sockets and signals, from the sixth version

_READABLE = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/proc/self", "/dev/urandom", "/dev/random"),
    *("/etc/ld.so.cache", "/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"),
    *("/etc/localtime", "/etc/timezone", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/mime.types"),
    *("/etc/passwd", "/etc/group", "/etc/alternatives"),
)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """Return the version of Landlock that the kernel has; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, 0, _VERSION)))


def confine(writable: str, readable: tuple[str, ...]) -> None:
    """Hold this process, and what it starts, to these files for good.

    Raises
    ------
    OSError
        If the kernel has Landlock and refuses.
    """
    version = landlock_version()
    if not version:
        return
    libc = _libc()
    everything = (1 << _RIGHTS.get(version, 16)) - 1
    handled = (ctypes.c_uint64 * 3)(everything, 0, _SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = libc.syscall(_CREATE_RULESET, ctypes.byref(handled), size, 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "the kernel makes no Landlock rules")
    _allow(libc, rules, writable, everything)
    _allow(libc, rules, "/dev/null", _READ_FILE | _WRITE_FILE)
    for path in readable:
        _allow(libc, rules, path, _READ)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.syscall(_RESTRICT_SELF, rules, 0) < 0:
        raise OSError(ctypes.get_errno(), "the kernel does not restrict this process")
    os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        if not Path(path).is_dir():
            rights &= _EXECUTE | _WRITE_FILE | _READ_FILE  # others do not apply to a file, and are refused
        rule = rights.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)
        if libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0) < 0:
            raise OSError(ctypes.get_errno(), f"no Landlock rule for {path}")
    finally:
        os.close(place)


def drop_capabilities() -> None:
    """Give up all that root may do beyond its own files, so that no program started from here gets it back."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    libc = _libc()
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # those that the kernel does not know are refused
    number = _CAPSET.get(os.uname().machine)
    if number is not None:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # linux/capability.h, version 3; this process
        libc.syscall(number, ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def main() -> None:
    """Confine this process, then become the command."""
    folder, readable, command = Path(sys.argv[1]).resolve(), sys.argv[2].split(os.pathsep), sys.argv[3:]
    scratch = folder / "tmp"
    scratch.mkdir(mode=0o700, exist_ok=True)
    os.environ.update(TMPDIR=str(scratch), HOME=str(scratch))
    confine(str(folder), (*_READABLE, *readable))
    drop_capabilities()
    os.execvp(command[0], command)  # noqa: S606 - becoming the command is the point


if __name__ == "__main__":
    main()
