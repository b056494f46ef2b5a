"""The archive's bytes: readable everywhere, the same every time, refused when they could do harm, never half there."""

import gzip
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from askline.errors import PackageError
from askline.store import sha256_of_file
from tasks.package import archive
from tasks.package.gzip_writer import GzipWriter

REPOSITORY = Path(__file__).parents[2]
READ_AS_STREAM = """
import java.io.*; import java.util.zip.*; import java.security.*;
class Read { public static void main(String[] a) throws Exception {
  MessageDigest digest = MessageDigest.getInstance("SHA-256"); byte[] block = new byte[70000]; int count;
  try (InputStream in = new GZIPInputStream(new FileInputStream(a[0]))) {
    while ((count = in.read(block)) > 0) digest.update(block, 0, count); }
  StringBuilder hex = new StringBuilder(); for (byte b : digest.digest()) hex.append(String.format("%02x", b));
  System.out.print(hex); } }
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A package's names: weights that do not shrink, text that does, an empty file, one just over a block."""
    chance = random.Random(1)
    content = {
        "askline.json": b"{}\n",
        "code/inference.py": b"import json\n" * 400,
        "code/empty.py": b"",
        "config.json": b'{"a": 1}' * 9000,
        "model.safetensors": chance.randbytes(3_000_001),
        "tokenizer_config.json": b"{}",
        "tokenizer.json": b"".join(b'"word %d": %d,' % (n, n * n) for n in range(90_000)),
        "z/one-block": chance.randbytes(65536),
    }
    for name, data in content.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {name: tmp_path / "files" / name for name in content}


@pytest.fixture
def packed(files: dict[str, Path], tmp_path: Path) -> Path:
    path = tmp_path / "model.tar.gz"
    archive.pack(files, path)
    return path


def content_of(files: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files.items()}


def under(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("mode", ["r:gz", "r|gz"])
def test_the_standard_library_reads_it(packed: Path, files: dict[str, Path], tmp_path: Path, mode: str) -> None:
    with tarfile.open(packed, mode) as tar:  # type: ignore[call-overload]
        tar.extractall(tmp_path / "out", filter="data")
    assert under(tmp_path / "out") == content_of(files)


def test_gnu_tar_and_gzip_read_it(packed: Path, files: dict[str, Path], tmp_path: Path) -> None:
    subprocess.run(["gzip", "-t", str(packed)], check=True)
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        ["tar", "xzf", str(packed), "-C", str(tmp_path / "out")], check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert under(tmp_path / "out") == content_of(files)


def test_it_is_one_gzip_member(packed: Path) -> None:
    """Readers that stop after the first member exist."""
    inflate = zlib.decompressobj(31)
    whole = inflate.decompress(packed.read_bytes())
    assert inflate.eof
    assert inflate.unused_data == b""
    assert len(whole) % tarfile.RECORDSIZE == 0


@pytest.mark.slow
def test_java_reads_it(packed: Path, tmp_path: Path) -> None:
    """The model server is a Java program."""
    if shutil.which("java") is None:
        pytest.skip("no java on this machine")
    (tmp_path / "Read.java").write_text(READ_AS_STREAM)
    done = subprocess.run(
        ["java", str(tmp_path / "Read.java"), str(packed)], check=False, capture_output=True, text=True
    )
    if "error: compilation" in done.stderr or "Could not find or load main class" in done.stderr:
        pytest.skip("no compiler in this java")
    assert done.returncode == 0, done.stderr
    (tmp_path / "plain").write_bytes(gzip.decompress(packed.read_bytes()))
    assert done.stdout == sha256_of_file(tmp_path / "plain")


def test_weights_are_stored_and_the_rest_deflated(packed: Path, files: dict[str, Path]) -> None:
    whole = packed.read_bytes()
    weights = files["model.safetensors"].read_bytes()
    assert weights[:60_000] in whole, "as they are"
    assert b'"word 4": 16' not in whole
    rest = sum(path.stat().st_size for path in files.values()) - len(weights)
    assert len(whole) < len(weights) + 0.5 * rest


def test_two_packs_at_two_places_and_times_are_the_same(packed: Path, files: dict[str, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "another" / "place"
    for name in reversed(files):
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[name], elsewhere / name)
        (elsewhere / name).chmod(0o755)
        os.utime(elsewhere / name, (time.time() + 1e6,) * 2)
    code = (
        "import sys; from pathlib import Path; from tasks.package.archive import pack; root = Path(sys.argv[1]);"
        "pack({p.relative_to(root).as_posix(): p for p in root.rglob('*') if p.is_file()}, Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(elsewhere), str(elsewhere.parent / "b.tar.gz")]
    subprocess.run(command, check=True, cwd=REPOSITORY, env={**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"})
    assert (elsewhere.parent / "b.tar.gz").read_bytes() == packed.read_bytes()


def test_the_bytes_are_those_of_the_pinned_compressor(tmp_path: Path) -> None:
    """Fails when isal (or its path on some processor) writes other bytes: every package's sha256 would change."""
    text = b"".join(b"%d %d\n" % (n, n * n % 8191) for n in range(200_000))
    with (tmp_path / "a.gz").open("wb") as raw, GzipWriter(raw) as zipped:
        zipped.deflated(text)
        zipped.stored(text[:100_000])
        zipped.deflated(text[5:])
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == text + text[:100_000] + text[5:]
    assert sha256_of_file(tmp_path / "a.gz") == "4f8f1eb82a91ea2caefbc6e4148575da16d4278d4a63e5911f415057f3dff625"


def test_an_archive_is_whole_or_absent(packed: Path, files: dict[str, Path], tmp_path: Path) -> None:
    before = packed.read_bytes()
    calls = 0

    def interrupt(share: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive.pack(files, packed, interrupt)
    assert packed.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", "model.tar.gz"]


def test_a_full_disk_leaves_nothing_and_a_retry_finishes(files: dict[str, Path], tmp_path: Path) -> None:
    """The limit on a file's size gives the same error as a full disk, half-way through the weights."""
    code = """
import resource, sys
from pathlib import Path
from tasks.package.archive import pack
root, target = Path(sys.argv[1]), Path(sys.argv[2])
files = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))
try:
    pack(files, target)
except OSError as error:
    print(type(error).__name__, error.strerror, sorted(p.name for p in target.parent.iterdir()))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
pack(files, target)
"""
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "model.tar.gz"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "files"), str(target)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "OSError File too large []"
    assert set(archive.lint(target)[0]) == set(files)


def test_a_name_that_no_tar_can_hold(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="shorter name"):
        archive.pack({"x" * 300: files["config.json"]}, tmp_path / "a.tar.gz")
    assert not (tmp_path / "a.tar.gz").exists()


def write(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Write an archive that holds these members and what every package needs."""
    with tarfile.open(path, "w:gz") as tar:
        for name in [*archive.REQUIRED, archive.WEIGHTS[0]]:
            tar.addfile(*plain(name))
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return path


def plain(name: str, data: bytes = b"content", **facts: object) -> tuple[tarfile.TarInfo, io.BytesIO]:
    member, content = tarfile.TarInfo(name), io.BytesIO(data)
    member.size = len(data)
    for fact, value in facts.items():
        setattr(member, fact, value)
    return member, content


def one(name: str, data: bytes = b"content", **facts: object) -> tuple[tarfile.TarInfo, bytes]:
    return plain(name, data, **facts)[0], data


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (one("run.sh", mode=0o755), "run.sh is executable"),
        (one("notes", mode=0o4644), "notes is executable"),
        (one("engine.so"), "engine.so is a program or a library outside code/lib/"),
        (one("data", b"\x7fELF\x02\x01\x01\0"), "data is a program or a library"),
        (one("hook", b"#!/bin/sh\n"), "hook is a program or a library"),
        (one("pytorch_model.bin"), "pytorch_model.bin is a pickle"),
        (one("code/lib/x/y.pkl"), "code/lib/x/y.pkl is a pickle"),
        (one("optimizer.pt"), "optimizer.pt is a pickle"),
        (one("weights", b"\x80\x04\x95\x00\x00"), "weights is a pickle"),
        (one("weights", b"PK\x03\x04data.pkl"), "weights is a pickle"),
        (one("code/requirements.txt"), "at every cold start"),
        (one("pipe", b"", type=tarfile.FIFOTYPE), "pipe is a link or a device"),
        (one("hard", b"", type=tarfile.LNKTYPE, linkname="config.json"), "hard is a link or a device"),
        (one("a/../../b"), "a/../../b leads out"),
        (one("a\\..\\b"), "no plain path"),
        (one("a\nb"), "no plain path"),
        (one("./config.json"), "config.json is there twice"),
        (one("config.json/x"), "config.json is a file and a folder"),
    ],
)
def test_what_could_do_harm_is_refused(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes], expected: str) -> None:
    path = write(tmp_path / "a.tar.gz", member)
    with pytest.raises(PackageError) as caught:
        archive.lint(path)
    assert expected in str(caught.value)


def test_libraries_have_a_place_and_weights_any_name_the_caller_gives(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tar.gz", one("code/lib/cp311/x/_x.so", b"\x7fELF..."), one("model.bin", b"#!/not a script")
    )
    with pytest.raises(PackageError, match=r"model\.bin is a pickle"):
        archive.lint(path)
    assert "model.bin" in archive.lint(path, weights=("model.bin",))[0]
    assert "model.bin" in archive.lint(path, required=("askline.json", "model.bin"), weights=())[0]
    with pytest.raises(PackageError, match=r"encoder\.onnx is missing"):
        archive.lint(path, required=("encoder.onnx",), weights=("model.bin",))


def bomb(path: Path) -> None:
    """Write half a gigabyte of zeros in half a megabyte, as one member."""
    member = tarfile.TarInfo("config.json")
    member.size = 500 * 10**6
    with gzip.open(path, "wb", compresslevel=1) as zipped:
        zipped.write(member.tobuf())
        for _ in range(500):
            zipped.write(bytes(10**6))


def endless_tail(path: Path) -> None:
    """After the end mark, zeros that no tar reader asks for."""
    write(path)
    with path.open("ab") as raw:
        raw.write(gzip.compress(bytes(300 * 10**6), 1))


def endless_header(path: Path) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 400 * 10**6
    with gzip.open(path, "wb", compresslevel=1) as zipped:
        zipped.write(member.tobuf())
        for _ in range(400):
            zipped.write(bytes(10**6))


@pytest.mark.parametrize("make", [bomb, endless_tail, endless_header])
def test_a_bomb_is_not_inflated(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "a.tar.gz"
    make(path)
    assert path.stat().st_size < 5 * 10**6
    code = """
import resource, sys
from pathlib import Path
from askline.errors import PackageError
from tasks.package import archive
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for check in (archive.lint, lambda path, **limit: archive.unpack(path, path.with_name("out"), **limit)):
    try:
        check(Path(sys.argv[1]), max_unpacked=20 * 10**6)
    except PackageError as error:
        print("refused:", error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("refused:") == 2, done.stdout
    assert int(done.stdout.splitlines()[-1]) < 60, "megabytes that reading took"
    assert [item.name for item in tmp_path.iterdir()] == ["a.tar.gz"]


@pytest.mark.parametrize("harm", ["cut", "flip", "link", "out", "absolute"])
def test_a_bad_archive_is_not_unpacked_by_half(packed: Path, tmp_path: Path, harm: str) -> None:
    whole = packed.read_bytes()
    match harm:
        case "cut":
            packed.write_bytes(whole[:-5])
        case "flip":
            packed.write_bytes(whole[:2000_000] + bytes([whole[2000_000] ^ 1]) + whole[2000_001:])
        case "link":
            write(packed, one("link", b"", type=tarfile.SYMTYPE, linkname="/etc"), one("link/passwd"))
        case "out":
            write(packed, one("../evil"))
        case "absolute":
            write(packed, one("/evil-of-a-test"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(PackageError, match=r"unpacked|leads out"):
        archive.unpack(packed, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
    assert not (tmp_path.parent / "evil").exists()
    packed.write_bytes(whole)
    archive.unpack(packed, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_folder_in_use_is_left_alone(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(PackageError, match="not empty"):
        archive.unpack(packed, tmp_path / "out")
    assert under(tmp_path / "out") == {"mine": b"keep"}
