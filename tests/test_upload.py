"""The archive in S3: sent once, under its own hash, into a bucket of one's own."""

import base64
import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from askline.clients import aws_client
from askline.config import PackageConfig
from askline.errors import ArtifactError, CloudError, ConfigError, DeployError
from askline.records import PackageRef, Target
from askline.store import ArtifactStore, sha256_of_file
from tasks.aws.errors import explained, is_missing
from tasks.upload import ONE_REQUEST_BYTES, upload_package

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
        PackageConfig(**config), package, mlkey="upload-test", store=store, target=target, tags={"team": "blue"}
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
    content = b"0123456789abcdef" * (ONE_REQUEST_BYTES // 16) + b"and a little more"
    package = make_package(store, content)
    told: list[float] = []
    result = upload_package(
        PackageConfig(),
        package,
        mlkey="upload-test",
        store=store,
        target=cloud,
        tags={},
        progress=lambda share, message="": told.append(share),
    )
    s3 = aws_client(cloud, "s3")
    held = s3.head_object(Bucket=result.bucket, Key=result.key)
    assert held["ContentLength"] == len(content)
    assert held["Metadata"]["sha256"] == package.archive_sha256
    assert held["ETag"].strip('"').endswith("-5")
    assert told == sorted(told)
    assert len(told) > 5
    assert told[-1] == 1.0


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
