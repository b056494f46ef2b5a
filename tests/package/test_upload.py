"""The archive in S3: sent once, under its own hash, into a bucket of one's own."""

import base64
import contextlib
import hashlib
import random
import re
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from askline.clients import aws_client
from askline.config import PackageConfig
from askline.errors import ArtifactError, CloudError, ConfigError, DeployError
from askline.progress import quiet
from askline.records import PackageRef, Target, UploadRef
from askline.store import ArtifactStore, sha256_of_file
from tasks.aws.errors import explained, is_missing
from tasks.package.multipart import PART_BYTES, S3Object
from tasks.package.upload import _send, upload_package
from tasks.workplace import Workplace

IDENTITY = (
    b'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
    b"<Arn>arn:aws:iam::111122223333:user/me</Arn><UserId>u</UserId><Account>111122223333</Account>"
    b"</GetCallerIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
)


def make_package(store: ArtifactStore, content: bytes) -> PackageRef:
    """Store something as an archive: what it holds is of no matter here."""
    with store.new("package") as draft:
        path = draft.folder / "model.tar.gz"
        path.write_bytes(content)
        archive_sha256, size = sha256_of_file(path), path.stat().st_size
        sha256 = draft.commit()
    return PackageRef(
        sha256=sha256,
        archive_sha256=archive_sha256,
        size=size,
        unpacked_size=size,
        model_sha256="a" * 64,
        members=(),
    )


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


@contextlib.contextmanager
def answering_s3(status: int, headers: dict[str, str], body: bytes = b"") -> Iterator[Target]:
    """An S3 that gives one answer to everything, and an STS that knows who is asking."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            is_sts = self.command == "POST" and self.path == "/"
            self.send_response(200 if is_sts else status)
            content = IDENTITY if is_sts else body
            for name, value in ({} if is_sts else headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield Target(kind="local", region="us-east-1", endpoints={"s3": url, "sts": url})
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def upload(package: PackageRef, store: ArtifactStore, target: Target, **config: str):  # type: ignore[no-untyped-def]
    return upload_package(
        PackageConfig(**config),
        package,
        mlkey="upload-test",
        tags={"team": "blue"},
        place=Workplace(target, store=store),
    )


@pytest.mark.slow
def test_the_archive_is_sent_once_with_what_s3_needs_to_verify_it(cloud: Target, store: ArtifactStore) -> None:
    package = make_package(store, b"archive one")
    first = upload(package, store, cloud)
    assert not first.reused
    assert first.bucket == "askline-000000000000-us-east-1"
    assert first.key == f"deploy/upload-test/{package.archive_sha256[:12]}/model.tar.gz"
    assert first.uri == f"s3://{first.bucket}/{first.key}"
    s3 = aws_client(cloud, "s3")
    held = s3.head_object(Bucket=first.bucket, Key=first.key, ChecksumMode="ENABLED")
    assert held["Metadata"]["sha256"] == package.archive_sha256
    assert base64.b64decode(held["ChecksumSHA256"]).hex() == package.archive_sha256
    assert s3.get_object(Bucket=first.bucket, Key=first.key)["Body"].read() == b"archive one"
    tags = s3.get_object_tagging(Bucket=first.bucket, Key=first.key)["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {
        "askline:managed": "true",
        "askline:mlkey": "upload-test",
        "team": "blue",
    }
    second = upload(package, store, cloud)
    assert second == first.model_copy(update={"reused": True})
    assert s3.head_object(Bucket=first.bucket, Key=first.key)["LastModified"] == held["LastModified"]


@pytest.mark.slow
def test_a_missing_bucket_is_made_private_encrypted_and_tagged(cloud: Target, store: ArtifactStore) -> None:
    upload(make_package(store, b"x"), store, cloud, bucket="askline-upload-new", prefix="some/where")
    s3 = aws_client(cloud, "s3")
    block = s3.get_public_access_block(Bucket="askline-upload-new")["PublicAccessBlockConfiguration"]
    assert len(block) == 4
    assert all(block.values())
    rule = s3.get_bucket_encryption(Bucket="askline-upload-new")["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    tags = s3.get_bucket_tagging(Bucket="askline-upload-new")["TagSet"]
    assert {"Key": "askline:managed", "Value": "true"} in tags


@pytest.mark.slow
def test_a_bucket_that_is_there_is_left_as_it_is(cloud: Target, store: ArtifactStore) -> None:
    s3 = aws_client(cloud, "s3")
    s3.create_bucket(Bucket="askline-upload-theirs")
    upload(make_package(store, b"x"), store, cloud, bucket="askline-upload-theirs", prefix="")
    with pytest.raises(ClientError, match="NoSuchTagSet"):
        s3.get_bucket_tagging(Bucket="askline-upload-theirs")
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket="askline-upload-theirs")["Contents"]]
    assert len(keys) == 1
    assert keys[0].startswith("upload-test/")


@pytest.mark.slow
def test_other_bytes_under_the_key_are_replaced(cloud: Target, store: ArtifactStore) -> None:
    package = make_package(store, b"the right bytes")
    first = upload(package, store, cloud)
    s3 = aws_client(cloud, "s3")
    s3.put_object(Bucket=first.bucket, Key=first.key, Body=b"the wrong ones!", Metadata={"sha256": "0" * 64})
    assert not upload(package, store, cloud).reused
    assert s3.get_object(Bucket=first.bucket, Key=first.key)["Body"].read() == b"the right bytes"


@pytest.mark.slow
def test_a_large_archive_goes_in_parts(cloud: Target, store: ArtifactStore) -> None:
    content = b"0123456789abcdef" * (4 * PART_BYTES // 16) + b"and a little more"
    package = make_package(store, content)
    told: list[float] = []
    result = upload_package(
        PackageConfig(),
        package,
        mlkey="upload-test",
        tags={},
        place=Workplace(cloud, store=store, progress=lambda share, message="": told.append(share)),
    )
    s3 = aws_client(cloud, "s3")
    held = s3.head_object(Bucket=result.bucket, Key=result.key)
    assert held["ContentLength"] == len(content)
    assert held["Metadata"]["sha256"] == package.archive_sha256
    assert held["ETag"].strip('"').endswith("-5")
    assert told == sorted(told)
    assert len(told) > 5
    assert told[-1] == 1.0


PARTS = 6
LENGTH = (PARTS - 1) * PART_BYTES + 1000


def make_large(store: ArtifactStore, seed: int) -> PackageRef:
    """Store an archive of six parts, no two alike."""
    return make_package(store, random.Random(seed).randbytes(LENGTH))


class Line:
    """A line to a server that can be cut, or stand still, or change a byte, once it has carried enough."""

    def __init__(self, server: str) -> None:
        self._server = urlsplit(server)
        self.left: int | None = None
        """Bytes that it still carries upwards; None is no limit."""
        self.then: Literal["cut", "stand still", "change a byte"] = "cut"
        self.parts: list[int] = []
        """Numbers of the parts that were sent, as their requests came."""
        self._lock = threading.Lock()
        line = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                line._carry(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._listener = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        self._thread = threading.Thread(target=self._listener.serve_forever, daemon=True)
        self._thread.start()

    def repair(self) -> None:
        self.left = None
        self.parts.clear()

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()

    def _carry(self, client: socket.socket) -> None:
        with socket.create_connection((self._server.hostname, self._server.port)) as server:
            threading.Thread(target=self._answers, args=(server, client), daemon=True).start()
            while block := client.recv(1 << 16):
                self.parts += [int(number) for number in re.findall(rb"PUT \S*partNumber=(\d+)\S* HTTP", block)]
                with self._lock:
                    if self.left is not None:
                        self.left -= len(block)
                    over = self.left is not None and self.left < 0
                    if over and self.then == "change a byte":
                        if len(block) < 1000 or b"HTTP/1.1" in block:
                            self.left, over = 0, False  # not in a header
                        else:
                            block = bytes([block[0] ^ 1]) + block[1:]
                            self.left, over = None, False
                if over and self.then == "cut":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                    return
                if over:
                    time.sleep(3600)
                server.sendall(block)

    @staticmethod
    def _answers(server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := server.recv(1 << 16):
                client.sendall(block)


@pytest.fixture
def line(cloud: Target) -> Iterator[Line]:
    found = Line(cloud.endpoints["s3"])
    yield found
    found.close()


def through(line: Line, cloud: Target) -> Target:
    return cloud.model_copy(update={"endpoints": {**cloud.endpoints, "s3": line.url}})


def unfinished(cloud: Target, bucket: str) -> dict[str, list[int]]:
    """Return the parts that S3 holds of every unfinished upload in a bucket."""
    s3 = aws_client(cloud, "s3")
    found = {}
    for item in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        held = s3.list_parts(Bucket=bucket, Key=item["Key"], UploadId=item["UploadId"]).get("Parts", [])
        found[item["UploadId"]] = sorted(part["PartNumber"] for part in held)
    return found


def settled(cloud: Target, bucket: str) -> list[int]:
    """Return the parts of the one unfinished upload, once S3 has taken in all that was carried to it."""
    before: dict[str, list[int]] = {}
    while (found := unfinished(cloud, bucket)) != before:
        before = found
        time.sleep(0.5)
    (held,) = found.values()
    return held


def new_bucket(cloud: Target, name: str) -> str:
    aws_client(cloud, "s3").create_bucket(Bucket=name)
    return name


def check_whole(cloud: Target, found: UploadRef, package: PackageRef) -> None:
    s3 = aws_client(cloud, "s3")
    content = s3.get_object(Bucket=found.bucket, Key=found.key)["Body"].read()
    assert hashlib.sha256(content).hexdigest() == package.archive_sha256
    held = s3.head_object(Bucket=found.bucket, Key=found.key, ChecksumMode="ENABLED")
    assert held["ChecksumSHA256"].endswith(f"-{PARTS}"), "S3 verified every part by its sha256"
    tags = s3.get_object_tagging(Bucket=found.bucket, Key=found.key)["TagSet"]
    assert {"Key": "team", "Value": "blue"} in tags
    assert unfinished(cloud, found.bucket) == {}


@pytest.mark.slow
def test_after_a_cut_only_what_is_missing_is_sent(cloud: Target, line: Line, store: ArtifactStore) -> None:
    package, bucket = make_large(store, 1), new_bucket(cloud, "askline-upload-cut")
    line.left = 4 * PART_BYTES + PART_BYTES // 2
    with pytest.raises(CloudError, match="try again") as caught:
        upload(package, store, through(line, cloud), bucket=bucket)
    assert caught.value.retryable
    assert "Contents" not in aws_client(cloud, "s3").list_objects_v2(Bucket=bucket), "nothing half-written"
    held = settled(cloud, bucket)
    assert 0 < len(held) < PARTS
    line.repair()
    told: list[float] = []
    found = upload_package(
        PackageConfig(bucket=bucket),
        package,
        mlkey="upload-test",
        tags={"team": "blue"},
        place=Workplace(through(line, cloud), store=store, progress=lambda share, message="": told.append(share)),
    )
    assert not found.reused
    assert sorted(line.parts) == sorted(set(range(1, PARTS + 1)) - set(held))
    assert told == sorted(told)
    assert told[0] == pytest.approx(sum(min(PART_BYTES, LENGTH - (n - 1) * PART_BYTES) for n in held) / LENGTH)
    check_whole(cloud, found, package)
    line.repair()
    assert upload(package, store, through(line, cloud), bucket=bucket).reused
    assert line.parts == [], "a finished upload is never sent again"


@pytest.mark.slow
def test_a_killed_upload_goes_on_where_it_was(cloud: Target, line: Line, store: ArtifactStore) -> None:
    package, bucket = make_large(store, 2), new_bucket(cloud, "askline-upload-killed")
    line.left, line.then = 4 * PART_BYTES + PART_BYTES // 2, "stand still"
    code = """
import sys
from askline.config import PackageConfig
from askline.records import PackageRef, Target
from askline.store import ArtifactStore
from tasks.package.upload import upload_package
from tasks.workplace import Workplace
package, target = PackageRef.model_validate_json(sys.argv[1]), Target.model_validate_json(sys.argv[2])
config = PackageConfig(bucket=sys.argv[4])
upload_package(config, package, mlkey="upload-test", place=Workplace(target, store=ArtifactStore(sys.argv[3])), tags={})
"""
    arguments = [package.model_dump_json(), through(line, cloud).model_dump_json(), str(store.root), bucket]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 60
        while line.left >= 0 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None, "it is in the middle"
    finally:
        process.kill()
        process.wait()
    held = settled(cloud, bucket)
    assert 0 < len(held) < PARTS
    line.repair()
    found = upload(package, store, through(line, cloud), bucket=bucket)
    assert sorted(line.parts) == sorted(set(range(1, PARTS + 1)) - set(held))
    check_whole(cloud, found, package)


@pytest.mark.slow
def test_bytes_that_change_on_the_way_are_found(cloud: Target, line: Line, store: ArtifactStore) -> None:
    package, bucket = make_large(store, 3), new_bucket(cloud, "askline-upload-changed")
    line.left, line.then = 2 * PART_BYTES, "change a byte"
    with pytest.raises(CloudError, match="changed on the way") as caught:
        upload(package, store, through(line, cloud), bucket=bucket)
    assert caught.value.retryable
    held = settled(cloud, bucket)
    line.repair()
    found = upload(package, store, through(line, cloud), bucket=bucket)
    assert sorted(line.parts) == sorted(set(range(1, PARTS + 1)) - set(held))
    check_whole(cloud, found, package)


@pytest.mark.slow
def test_parts_of_other_bytes_are_sent_anew_and_useless_uploads_aborted(
    cloud: Target, line: Line, store: ArtifactStore
) -> None:
    package, bucket = make_large(store, 4), new_bucket(cloud, "askline-upload-foreign")
    key = f"deploy/upload-test/{package.archive_sha256[:12]}/model.tar.gz"
    content = (store.path("package", package.sha256) / "model.tar.gz").read_bytes()
    s3 = aws_client(cloud, "s3")

    def begin(name: str, parts: dict[int, bytes]) -> str:
        made = s3.create_multipart_upload(
            Bucket=bucket, Key=name, ChecksumAlgorithm="SHA256", Metadata={"sha256": package.archive_sha256}
        )
        for number, data in parts.items():
            s3.upload_part(
                Bucket=bucket,
                Key=name,
                UploadId=made["UploadId"],
                PartNumber=number,
                Body=data,
                ChecksumAlgorithm="SHA256",
            )
        return str(made["UploadId"])

    piece = {number: content[(number - 1) * PART_BYTES : number * PART_BYTES] for number in range(1, PARTS + 1)}
    begin(key, {1: b"something else"})
    begin(key, {1: piece[1]})
    begin(key, {1: piece[1], 2: piece[3], 3: piece[3][:-1], 5: piece[5], 9: b"beyond the end"})
    neighbour = begin(key + ".other", {1: b"of somebody else"})
    found = upload(package, store, through(line, cloud), bucket=bucket)
    assert sorted(line.parts) == [2, 3, 4, 6]
    assert set(unfinished(cloud, bucket)) == {neighbour}
    s3.abort_multipart_upload(Bucket=bucket, Key=key + ".other", UploadId=neighbour)
    check_whole(cloud, found, package)
    begin(key, {1: piece[1]})
    assert upload(package, store, cloud, bucket=bucket).reused
    assert unfinished(cloud, bucket) == {}, "of no use any more"


@pytest.mark.slow
def test_large_other_bytes_under_the_key_are_replaced(cloud: Target, store: ArtifactStore) -> None:
    package, bucket = make_large(store, 5), new_bucket(cloud, "askline-upload-replaced")
    key = f"deploy/upload-test/{package.archive_sha256[:12]}/model.tar.gz"
    aws_client(cloud, "s3").put_object(Bucket=bucket, Key=key, Body=b"the wrong ones", Metadata={"sha256": "0" * 64})
    found = upload(package, store, cloud, bucket=bucket)
    assert not found.reused
    check_whole(cloud, found, package)


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
def test_another_run_that_finishes_first_is_not_overwritten(cloud: Target, store: ArtifactStore, large: bool) -> None:
    """The other run ends between our look at the key and our last request."""
    package = make_large(store, 6) if large else make_package(store, b"raced")
    bucket = new_bucket(cloud, f"askline-upload-raced-{'large' if large else 'small'}")
    first = upload(package, store, cloud, bucket=bucket)
    s3 = aws_client(cloud, "s3")
    before = s3.head_object(Bucket=bucket, Key=first.key)["LastModified"]
    path = store.path("package", package.sha256) / "model.tar.gz"
    place = S3Object(bucket, first.key, "000000000000")
    assert not _send(s3, path, package, place, before=None, tags={}, progress=quiet), "it was not ours"
    assert s3.head_object(Bucket=bucket, Key=first.key)["LastModified"] == before
    assert unfinished(cloud, bucket) == {}


def test_a_damaged_package_is_not_sent(store: ArtifactStore, free_port: int) -> None:
    package = make_package(store, b"x")
    (store.path("package", package.sha256) / "model.tar.gz").write_bytes(b"y")
    nowhere = Target(kind="local", region="us-east-1", endpoints={"s3": f"http://127.0.0.1:{free_port}"})
    with pytest.raises(ArtifactError, match="damaged"):
        upload(package, store, nowhere)


def test_nobody_answers(free_port: int) -> None:
    nowhere = Target(kind="local", region="us-east-1", endpoints={"sts": f"http://127.0.0.1:{free_port}"})
    sts = aws_client(nowhere, "sts", retries={"mode": "standard", "max_attempts": 1})
    with pytest.raises(CloudError, match="connection") as caught, explained("ask who this is"):
        sts.get_caller_identity()
    assert caught.value.retryable


def test_a_bucket_of_another_account_is_not_touched(store: ArtifactStore) -> None:
    with answering_s3(403, {}) as target, pytest.raises(CloudError, match="belongs to another account") as caught:
        upload(make_package(store, b"x"), store, target, bucket="somebody-elses")
    assert "111122223333" in str(caught.value)
    assert not caught.value.retryable


def test_a_bucket_in_another_region_is_refused(store: ArtifactStore) -> None:
    with (
        answering_s3(200, {"x-amz-bucket-region": "eu-west-1"}) as target,
        pytest.raises(CloudError, match="eu-west-1") as caught,
    ):
        upload(make_package(store, b"x"), store, target, bucket="far-away")
    assert "us-east-1" in str(caught.value)


def test_an_illegal_bucket_name_is_refused(store: ArtifactStore) -> None:
    with answering_s3(500, {}) as target, pytest.raises(ConfigError, match="Not_A_Bucket"):
        upload(make_package(store, b"x"), store, target, bucket="Not_A_Bucket")


def client_error(code: str, status: int = 400, message: str = "because") -> ClientError:
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "SomeCall")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "retryable", "words"),
    [
        (client_error("AccessDenied", 403), False, "grant"),
        (client_error("NoSuchBucket", 404), False, "do this"),
        (client_error("ThrottlingException"), True, "try again"),
        (client_error("InternalFailure", 500), True, "try again"),
        (client_error("Strange", 503), True, "try again"),
        (client_error("ExpiredToken"), False, "sign in"),
        (client_error("ResourceLimitExceeded"), False, "quota"),
        (EndpointConnectionError(endpoint_url="http://x"), True, "connection"),
        (NoCredentialsError(), False, "sign in"),
    ],
)
def test_what_aws_says_becomes_what_to_do(error: Exception, retryable: bool, words: str) -> None:
    with (
        pytest.raises(DeployError, match="cannot carry the stone") as caught,
        explained("carry the stone", advice={"NoSuchBucket": "do this"}, error_type=DeployError),
    ):
        raise error
    assert caught.value.retryable is retryable
    assert words in str(caught.value)


def test_a_managed_upload_shows_what_s3_said(store: ArtifactStore) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>no PutObject for you</Message></Error>"
    with answering_s3(403, {"Content-Type": "application/xml"}, body) as target:
        path = store.root.parent / "file"
        path.write_bytes(b"x")
        with pytest.raises(CloudError, match="no PutObject for you") as caught, explained("upload"):
            aws_client(target, "s3").upload_file(str(path), "bucket", "key")
    assert "grant" in str(caught.value)


def test_sagemakers_way_to_say_not_there() -> None:
    assert is_missing(client_error("ValidationException", message='Could not find model "x".'))
    assert not is_missing(client_error("ValidationException", message="Name is too long"))
    assert is_missing(client_error("404", 404))
