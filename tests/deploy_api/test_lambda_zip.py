import hashlib
import importlib.util
import marshal
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

from tasks.deploy_api import lambda_zip

ROOT = Path(__file__).parents[2]


def test_the_zip_is_the_same_every_time_and_holds_nothing_of_this_machine() -> None:
    built = lambda_zip.build()

    assert lambda_zip.build() == built
    assert len(built.content) < 1.5 * 1024 * 1024
    with zipfile.ZipFile(BytesIO(built.content)) as archive:
        names = archive.namelist()
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    sources = [name for name in names if name.endswith(".py")]
    handler = {f"lambda_handler/{path.name}" for path in (ROOT / "lambda_handler").iterdir() if path.is_file()}
    assert {name for name in names if name.startswith("lambda_handler/") and "__pycache__" not in name} == handler
    assert {"lambda_handler/openapi.json", "lambda_handler/page.html"} <= handler
    # Bytecode beside every source, for this Python.
    assert {name for name in names if name.endswith(".pyc")} == {
        importlib.util.cache_from_source(name) for name in sources
    }
    assert {name.split("/")[0].partition("-")[0].removesuffix(".py") for name in names} == {
        "__pycache__",  # of typing_extensions, a module without a folder
        "lambda_handler",
        "aws_lambda_powertools",
        "jmespath",
        "typing_extensions",
    }
    assert not [name for name in names if "RECORD" in name or ".." in name]


def test_the_zip_is_enough_beside_boto3(tmp_path: Path) -> None:
    with zipfile.ZipFile(BytesIO(lambda_zip.build().content)) as archive:
        archive.extractall(tmp_path)
    program = f"""
import os, sys
sys.path.insert(0, {str(tmp_path)!r})
os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
from lambda_handler.app import handler
class Context:
    aws_request_id = function_name = invoked_function_arn = "x"
    memory_limit_in_mb = 256
event = {{"httpMethod": "GET", "path": "/", "queryStringParameters": {{"MLKey": "a/b", "question": "Who?"}}}}
assert handler(event, Context())["statusCode"] == 400
print(sys.modules["aws_lambda_powertools"].__file__)
print(sorted({{"pydantic", "askline", "tasks", "torch", "fastapi"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    loaded, heavy = done.stdout.splitlines()[-2:]
    assert loaded.startswith(str(tmp_path))
    assert heavy == "[]"


def test_another_process_builds_the_same_zip() -> None:
    program = "from tasks.deploy_api import lambda_zip; import hashlib; z = lambda_zip.build()"
    program += "; print(z.sha256, hashlib.sha256(z.content).hexdigest())"
    built = lambda_zip.build()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [built.sha256, hashlib.sha256(built.content).hexdigest()], done.stderr


def test_the_bytecode_is_used_and_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    with zipfile.ZipFile(BytesIO(lambda_zip.build().content)) as archive:
        archive.extractall(tmp_path)
        for name in archive.namelist():
            if name.endswith(".pyc"):
                code = marshal.loads(archive.read(name)[16:])  # after magic, flags and the source's hash
                assert importlib.util.cache_from_source(code.co_filename) == name
    (tmp_path / "lambda_handler" / "waiting.py").write_text("raise RuntimeError('compiled again')\n")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from lambda_handler import waiting; "
        "print(waiting.RESERVE_SECONDS)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "0.5", done.stderr
