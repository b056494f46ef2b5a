"""The embedded cloud's supervisor: it starts, stays, comes back and leaves nothing behind."""

import contextlib
import fcntl
import io
import ipaddress
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import REPOSITORY, local_cloud, running_cloud
from support.shared import state_of

from askline.clients import aws_client
from askline.errors import LocalCloudError
from askline.records import Target
from local_cloud import keys, ports, processes, services
from local_cloud.__main__ import main, parser
from local_cloud.services import PARTS
from local_cloud.state import CloudFolder, Plan, last_lines
from local_cloud.supervisor import MAX_RESTARTS, Child, Supervisor

ONLY_MINISTACK = ("--without", "sagemaker", "--without", "hub", "--without", "prefect")
ONLY_HUB = ("--without", "ministack", "--without", "sagemaker", "--without", "prefect")


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Return the condition's value as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return value


def status_of(state_dir: Path) -> dict[str, Any]:
    return json.loads(local_cloud("status", "--json", "--state-dir", str(state_dir)).stdout)


def supervisor_of(state_dir: Path) -> int:
    status = CloudFolder(state_dir).read_status()
    assert status is not None
    return status.pid


def everyone(state_dir: Path) -> list[psutil.Process]:
    """The supervisor, the keeper, the parts and all their children."""
    supervisor = psutil.Process(supervisor_of(state_dir))
    return [supervisor, *supervisor.children(recursive=True)]


def none_left(state_dir: Path) -> bool:
    return not processes.marked(CloudFolder(state_dir).root) and not CloudFolder(state_dir).supervised()


@contextlib.contextmanager
def listener(port: int = 0) -> Iterator[int]:
    """Another program that holds a port."""
    with socket.create_server(("127.0.0.1", port)) as server:
        yield server.getsockname()[1]


# --- without any server ---------------------------------------------------------------------------------------------


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, local_cloud.__main__ as m; m.parser().format_help(); "
        "print(sorted({'pydantic', 'psutil', 'boto3', 'prefect', 'uvicorn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "bad", ["ministack", "ministack=", "ministack=0", "ministack=65536", "ministack=²", "s3=80", "=1"]
)
def test_a_bad_port_option_is_refused(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["up", "--port", bad])
    assert stopped.value.code == 2
    assert "SERVICE=N" in capsys.readouterr().err


def test_ports_are_the_remembered_ones_then_the_usual_ones(free_port: int) -> None:
    with listener() as taken:
        usual = {"hub": free_port, "prefect": taken}
        choice = ports.choose(usual, remembered={}, forced={})
        assert choice.ports["hub"] == free_port
        assert choice.ports["prefect"] != taken
        assert choice.remarks == [
            f"port {taken} is taken by another program: prefect uses {choice.ports['prefect']} from now on"
        ]
        again = ports.choose(usual, remembered=choice.ports, forced={})
        assert again.ports == choice.ports
        assert again.remarks == []


def test_no_two_parts_get_one_port(free_port: int) -> None:
    choice = ports.choose({"hub": free_port, "prefect": free_port, "ministack": free_port}, remembered={}, forced={})
    assert len(set(choice.ports.values())) == 3


def test_a_port_of_a_part_that_is_left_out_stays_its_own(free_port: int) -> None:
    with listener() as taken:
        choice = ports.choose({"hub": taken}, remembered={"prefect": taken + 1}, forced={})
        assert choice.ports["hub"] not in (taken, taken + 1)


def test_a_forced_port_is_taken_or_refused(free_port: int) -> None:
    assert ports.choose({"hub": 1}, remembered={}, forced={"hub": free_port}).ports == {"hub": free_port}
    with listener() as taken, pytest.raises(LocalCloudError, match=rf"port {taken}, asked for hub.*--port hub=N"):
        ports.choose({"hub": free_port}, remembered={}, forced={"hub": taken})


def test_two_that_start_at_once_choose_different_ports(free_port: int) -> None:
    usual: dict[str, Any] = {"wanted": {"hub": free_port}, "remembered": {}, "forced": {}}
    with ports.claims() as mine, ports.claims() as theirs:
        first = ports.choose(**usual, take=mine)
        second = ports.choose(**usual, take=theirs)
        assert first.ports == {"hub": free_port}
        assert second.ports != first.ports
        assert "is taken" in second.remarks[0]
        assert ports.choose(**usual, take=mine) == first, "tried again, its own are its own"
    with ports.claims() as later:
        assert ports.choose(**usual, take=later) == first


def test_a_port_with_a_server_on_all_interfaces_is_not_free() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not ports.is_free(server.getsockname()[1])


@pytest.mark.parametrize("content", ["", '{"version": 1, "ports": {"hub"', "[]", '{"version": 2}', "\0\0\0"])
def test_a_damaged_plan_is_set_aside(tmp_path: Path, content: str) -> None:
    folder = CloudFolder(tmp_path)
    folder.create()
    said: list[str] = []
    for number in (1, 2):
        folder.plan_file.write_text(content)
        assert folder.read_plan(said.append) == Plan()
        assert (folder.root / f"cloud.json.corrupt-{number}").read_text() == content
    assert "cloud.json.corrupt-2" in said[1]


def test_a_plan_from_before_idle_minutes_is_read(tmp_path: Path) -> None:
    folder = CloudFolder(tmp_path)
    folder.create()
    folder.plan_file.write_text('{"version": 1, "parts": ["hub"], "ports": {"hub": 8086}}')
    assert folder.read_plan(print) == Plan(parts=("hub",), ports={"hub": 8086}, idle_minutes=10)


@pytest.mark.parametrize("minutes", ["-1", "nan", "inf", "ten"])
def test_idle_minutes_that_are_none_are_refused(tmp_path: Path, minutes: str) -> None:
    done = local_cloud("up", "--state-dir", str(tmp_path), "--idle-minutes", minutes)
    assert done.returncode == 2
    assert repr(minutes) in done.stderr


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = local_cloud("up", "--state-dir", str(tmp_path / "file" / "state"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot write" in done.stderr
    assert "--state-dir" in done.stderr


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    folder = CloudFolder(tmp_path)
    with pytest.raises(LocalCloudError, match=r"No space left.*--state-dir"), folder.writable():
        Path("/dev/full").write_bytes(b"x" * 100_000)


def test_a_process_id_that_was_given_to_another_program_is_not_ours() -> None:
    mine = psutil.Process().create_time()
    assert processes.is_same(os.getpid(), mine)
    assert not processes.is_same(os.getpid(), mine - 3600)


@pytest.mark.parametrize("name", PARTS)
def test_nothing_secret_reaches_a_part(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN"),
        *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PREFECT_API_KEY", "PREFECT_API_URL", "GITHUB_TOKEN"),
        *("HTTP_PROXY", "https_proxy", "ALL_PROXY", "DOCKER_HOST", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE"),
    )
    for key in secrets:
        monkeypatch.setenv(key, "the-real-one")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(tmp_path)]))
    environment = services.environment(name, {part: 4000 + i for i, part in enumerate(PARTS)}, tmp_path)
    assert "the-real-one" not in environment.values()
    assert environment["AWS_ACCESS_KEY_ID"] == "test"
    assert "127.0.0.1" in environment["NO_PROXY"]
    assert environment["PYTHONPATH"] == str(tmp_path)


@pytest.mark.parametrize(("minutes", "seconds"), [(10, "600"), (0, "0"), (0.05, "3")])
def test_idle_minutes_reach_sagemaker_as_seconds(tmp_path: Path, minutes: float, seconds: str) -> None:
    command = services.command("sagemaker", {"ministack": 1, "sagemaker": 2}, tmp_path, idle_minutes=minutes)
    assert command[list(command).index("--idle-seconds") + 1] == seconds


def test_the_length_of_a_minute_reaches_sagemaker(tmp_path: Path) -> None:
    command = services.command(
        "sagemaker", {"ministack": 1, "sagemaker": 2}, tmp_path, idle_minutes=1, minute_seconds=0.5
    )
    assert command[list(command).index("--minute-seconds") + 1] == "0.5"


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_minute_that_is_no_time_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["up", "--minute-seconds", seconds])
    assert "not a number of seconds above 0" in capsys.readouterr().err


def test_the_services_that_a_deployment_asks_are_named(tmp_path: Path) -> None:
    keys.of(tmp_path)
    target = services.target({"ministack": 1, "sagemaker": 2}, tmp_path)
    for service, port in {"application-autoscaling": 2, "service-quotas": 2, "cloudwatch": 1, "sns": 1}.items():
        assert target.endpoints[service] == f"http://127.0.0.1:{port}"
        assert aws_client(target, service).meta.endpoint_url == f"http://127.0.0.1:{port}"


def test_the_target_never_leads_to_the_real_hub(tmp_path: Path) -> None:
    assert services.target({"ministack": 4566}, tmp_path).hub.startswith("http://127.0.0.1:")
    full = services.target({"ministack": 1, "sagemaker": 2, "hub": 3, "prefect": 4}, tmp_path)
    assert full.endpoints["s3"] == "http://127.0.0.1:1"
    assert full.endpoints["sagemaker-runtime"] == full.endpoints["sagemaker"] == "http://127.0.0.1:2"
    assert (full.hub, full.prefect_api) == ("http://127.0.0.1:3", "http://127.0.0.1:4/api")


def test_a_part_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    folder = CloudFolder(tmp_path)
    folder.create()
    folder.log("hub").write_text("the reason\n")
    supervisor = Supervisor(folder.root)
    supervisor.state = "ready"
    child = Child(PARTS["hub"], 1)
    pauses = []
    for second in range(MAX_RESTARTS):
        child.state = "ready"
        supervisor.on_death(child, 1, float(second))
        assert child.state == "restarting"
        pauses.append(child.again_at - second)
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]
    supervisor.on_death(child, -9, 30.0)
    assert child.state == "failed"
    assert child.error is not None
    assert "signal 9" in child.error
    assert "the reason" in child.error


def test_deaths_long_ago_do_not_count(tmp_path: Path) -> None:
    folder = CloudFolder(tmp_path)
    folder.create()
    supervisor = Supervisor(folder.root)
    supervisor.state = "ready"
    child = Child(PARTS["hub"], 1)
    for hour in range(3 * MAX_RESTARTS):
        child.state = "ready"
        supervisor.on_death(child, 1, hour * 3600.0)
        assert child.state == "restarting"


def test_the_end_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    assert last_lines(path, 3) == []
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(100_000)) + b"\xff\n")
    assert last_lines(path, 2) == ["line 99999", "\ufffd"]
    assert last_lines(path, 0) == []
    assert len(last_lines(path, 500)) == 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--without", "ministack"), "leave out both"),
        (("--without", "hub", "--port", "hub=9000"), "drop one"),
    ],
)
def test_options_that_contradict_each_other(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = local_cloud("up", "--state-dir", str(tmp_path), *options)
    assert done.returncode == 1
    assert message in done.stderr


def test_down_and_status_where_nothing_was_ever_started(tmp_path: Path) -> None:
    state = str(tmp_path / "never")
    done = local_cloud("down", "--state-dir", state)
    assert (done.returncode, done.stdout) == (0, "nothing is running\n")
    assert local_cloud("status", "--state-dir", state).returncode == 3
    done = local_cloud("logs", "--state-dir", state)
    assert done.returncode == 1
    assert "no logs" in done.stderr
    assert not (tmp_path / "never").exists()


# --- with servers ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_up_twice_status_logs_down(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path))
    with running_cloud(tmp_path, *ONLY_MINISTACK) as target:
        first = supervisor_of(tmp_path)
        again = local_cloud("up", "--json", *state, *ONLY_MINISTACK)
        assert Target.model_validate_json(again.stdout) == target
        assert "already" in again.stderr
        assert supervisor_of(tmp_path) == first
        quiet = local_cloud("up", "--json", "--quiet", *state, *ONLY_MINISTACK)
        assert (quiet.stdout, quiet.stderr) == (again.stdout, "")
        assert "healthy" in local_cloud("status", *state).stdout
        document = status_of(tmp_path)
        assert document["healthy"] is True
        assert document["target"]["endpoints"]["s3"] == target.endpoints["s3"]
        assert "Ready" in local_cloud("logs", "ministack", *state).stdout
        assert "supervisor | " in local_cloud("logs", *state).stdout
        done = local_cloud("down", *state)
        assert (done.returncode, done.stdout) == (0, "stopped MiniStack\n")
        assert none_left(tmp_path)
        assert local_cloud("status", *state).returncode == 3
        assert local_cloud("down", *state).stdout == "nothing is running\n"


@pytest.mark.slow
def test_up_three_times_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "local_cloud", "up", "--json", "--state-dir", str(tmp_path), *ONLY_MINISTACK]
    try:
        running = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        targets = {process.communicate(timeout=120)[0] for process in running}
        assert [process.returncode for process in running] == [0, 0, 0]
        assert len(targets) == 1
        assert len(processes.marked(CloudFolder(tmp_path).root, "ministack")) == 1
    finally:
        local_cloud("down", "--state-dir", str(tmp_path))


@pytest.mark.slow
def test_up_adds_what_an_earlier_up_left_out(tmp_path: Path) -> None:
    with running_cloud(tmp_path, *ONLY_MINISTACK) as before:
        added = local_cloud(
            "up", "--json", "--state-dir", str(tmp_path), "--without", "sagemaker", "--without", "prefect"
        )
        assert "adding Hub" in added.stderr
        target = Target.model_validate_json(added.stdout)
        assert target.endpoints == before.endpoints
        assert services.is_healthy("hub", int(target.hub.rsplit(":", 1)[1]))
        fewer = local_cloud("up", "--json", "--state-dir", str(tmp_path), *ONLY_MINISTACK)
        assert Target.model_validate_json(fewer.stdout) == target


@pytest.mark.slow
@pytest.mark.parametrize("also_the_keeper", [False, True])
def test_kill_9_of_the_supervisor_leaves_nothing_and_up_works_again(tmp_path: Path, also_the_keeper: bool) -> None:
    with running_cloud(tmp_path, *ONLY_MINISTACK) as target:
        deploy_hello(target)
        processes_before = everyone(tmp_path)
        supervisor, *others = processes_before
        keeper = next(process for process in others if "local_cloud.keeper" in process.cmdline())
        assert any(process.ppid() != supervisor.pid for process in others), "the Lambda handler is a grandchild"
        for process in (keeper, supervisor) if also_the_keeper else (supervisor,):
            process.kill()
        until(lambda: none_left(tmp_path))
        # A process that is on its way out has no environment any longer, and so no mark.
        until(lambda: not any(processes.is_same(p.pid, p.create_time()) for p in processes_before))
        with running_cloud(tmp_path, *ONLY_MINISTACK) as again:
            assert again == target
            # MiniStack was asked to stop, not killed, so even the control plane is still there.
            assert hello(again) == "hello"


@pytest.mark.slow
def test_up_right_after_kill_9(tmp_path: Path) -> None:
    with running_cloud(tmp_path, *ONLY_MINISTACK) as target:
        os.kill(supervisor_of(tmp_path), signal.SIGKILL)
        again = local_cloud("up", "--json", "--state-dir", str(tmp_path), *ONLY_MINISTACK)
        assert again.returncode == 0, again.stderr
        assert Target.model_validate_json(again.stdout) == target


@pytest.mark.slow
def test_a_part_or_keeper_that_dies_is_started_again(tmp_path: Path) -> None:
    with running_cloud(tmp_path, *ONLY_MINISTACK) as target:
        s3 = aws_client(target, "s3")
        s3.create_bucket(Bucket="survives")
        s3.put_object(Bucket="survives", Key="key", Body=b"content")
        old = status_of(tmp_path)["parts"]["ministack"]["pid"]
        keeper = next(p for p in everyone(tmp_path) if "local_cloud.keeper" in p.cmdline())
        keeper.kill()
        os.kill(old, signal.SIGKILL)
        until(lambda: status_of(tmp_path)["parts"]["ministack"].get("pid") not in (None, old))
        until(lambda: status_of(tmp_path)["healthy"])
        part = status_of(tmp_path)["parts"]["ministack"]
        assert part["restarts"] == 1
        assert s3.get_object(Bucket="survives", Key="key")["Body"].read() == b"content"
        assert "was killed by signal 9" in local_cloud("logs", "supervisor", "--state-dir", str(tmp_path)).stdout
        assert sum("local_cloud.keeper" in p.cmdline() for p in everyone(tmp_path) if p.status() != "zombie") == 1


def modified(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def until_still(folder: Path) -> None:
    """Return when no file in the folder has changed for two seconds."""
    while True:
        before = modified(folder)
        time.sleep(2)
        if modified(folder) == before:
            return


@pytest.mark.slow
def test_what_was_deployed_survives_kill_9_of_ministack(tmp_path: Path) -> None:
    with running_cloud(tmp_path, *ONLY_MINISTACK) as target:
        deploy_hello(target)
        address = address_of_hello(target)
        ssm = aws_client(target, "ssm")
        ssm.put_parameter(Name="/askline/x", Value="the last change", Type="String")
        state = CloudFolder(tmp_path).root / "ministack" / "state"
        until(lambda: (state / "ssm.json").exists() and "the last change" in (state / "ssm.json").read_text())
        until_still(state)  # the other services' files are written by the same hand
        old = status_of(tmp_path)["parts"]["ministack"]["pid"]
        saved = modified(state)
        assert ask(address) == "hello"
        ssm.get_parameter(Name="/askline/x")
        time.sleep(4)
        assert modified(state) == saved, "a question is no change"
        os.kill(old, signal.SIGKILL)
        until(lambda: status_of(tmp_path)["parts"]["ministack"].get("pid") not in (None, old))
        until(lambda: status_of(tmp_path)["healthy"])
        assert hello(target) == "hello"
        assert ssm.get_parameter(Name="/askline/x")["Parameter"]["Value"] == "the last change"


@pytest.mark.slow
def test_status_tells_of_a_part_that_hangs(tmp_path: Path) -> None:
    with running_cloud(tmp_path, *ONLY_HUB):
        hub = psutil.Process(status_of(tmp_path)["parts"]["hub"]["pid"])
        hub.suspend()
        try:
            done = local_cloud("status", "--state-dir", str(tmp_path))
            assert done.returncode == 1
            assert "does not answer" in done.stdout
        finally:
            hub.resume()


@pytest.mark.slow
def test_state_survives_down_and_up(tmp_path: Path) -> None:
    with running_cloud(tmp_path, *ONLY_MINISTACK) as target:
        deploy_hello(target)
        aws_client(target, "ssm").put_parameter(Name="/askline/x", Value="y", Type="String")
        local_cloud("down", "--state-dir", str(tmp_path))
        with running_cloud(tmp_path, *ONLY_MINISTACK) as again:
            assert again == target
            assert aws_client(again, "s3").get_object(Bucket="code", Key="hello.zip")["Metadata"] == {"a": "b"}
            assert aws_client(again, "iam").get_role(RoleName="hello")["Role"]["RoleName"] == "hello"
            assert aws_client(again, "ssm").get_parameter(Name="/askline/x")["Parameter"]["Value"] == "y"
            stack = aws_client(again, "cloudformation").describe_stacks(StackName="hello")["Stacks"][0]
            assert stack["StackStatus"] == "CREATE_COMPLETE"
            assert hello(again) == "hello"


@pytest.mark.slow
def test_a_stale_status_and_a_half_written_plan_do_no_harm(tmp_path: Path) -> None:
    folder = CloudFolder(tmp_path)
    folder.create()
    folder.plan_file.write_text('{"version": 1, "parts": ["ministack"], "po')
    # After a reboot: the id belongs to another program now, here to this one.
    folder.status_file.write_text(json.dumps({"pid": os.getpid(), "started": 1.0, "state": "ready", "parts": {}}))
    assert local_cloud("status", "--state-dir", str(tmp_path)).returncode == 3
    assert local_cloud("down", "--state-dir", str(tmp_path)).returncode == 0
    done = local_cloud("up", "--state-dir", str(tmp_path), *ONLY_HUB)
    try:
        assert done.returncode == 0, done.stderr
        assert "cloud.json.corrupt-1" in done.stderr
    finally:
        local_cloud("down", "--state-dir", str(tmp_path))


@pytest.mark.slow
def test_two_state_folders_are_two_clouds_and_ports_are_remembered(cloud: Target, tmp_path: Path) -> None:
    with running_cloud(tmp_path, *ONLY_MINISTACK) as other:
        assert other.endpoints["s3"] != cloud.endpoints["s3"]
        aws_client(other, "s3").create_bucket(Bucket="only-here")
        assert "only-here" not in [b["Name"] for b in aws_client(cloud, "s3").list_buckets()["Buckets"]]
    port = int(other.endpoints["s3"].rsplit(":", 1)[1])
    with listener(port):
        moved = local_cloud("up", "--json", "--state-dir", str(tmp_path), *ONLY_MINISTACK)
        assert f"port {port} is taken by another program" in moved.stderr
    try:
        local_cloud("down", "--state-dir", str(tmp_path))
        again = local_cloud("up", "--json", "--state-dir", str(tmp_path), *ONLY_MINISTACK)
        assert again.stdout == moved.stdout
    finally:
        local_cloud("down", "--state-dir", str(tmp_path))


def test_a_forced_port_that_is_taken_starts_nothing(tmp_path: Path) -> None:
    with listener() as taken:
        done = local_cloud("up", "--state-dir", str(tmp_path), *ONLY_HUB, "--port", f"hub={taken}")
    assert done.returncode == 1
    assert f"port {taken}" in done.stderr
    assert none_left(tmp_path)


@pytest.mark.slow
def test_a_part_that_cannot_start_stops_all_and_shows_its_log(tmp_path: Path) -> None:
    folder = CloudFolder(tmp_path)
    (folder.root / "sagemaker").mkdir(parents=True)
    with (folder.root / "sagemaker" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another SageMaker would that uses this folder
        done = local_cloud("up", "--state-dir", str(tmp_path), "--without", "prefect", "--without", "hub")
    assert done.returncode == 1
    assert "SageMaker ended with exit code 1" in done.stderr
    assert "another embedded SageMaker uses this folder" in done.stderr
    assert done.stdout == ""
    assert none_left(tmp_path)
    assert local_cloud("status", "--state-dir", str(tmp_path)).returncode == 3


@pytest.mark.slow
def test_interrupting_up_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "local_cloud", "up", "--state-dir", str(tmp_path)]
    up = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until(lambda: processes.marked(CloudFolder(tmp_path).root, "prefect"))
    up.send_signal(signal.SIGINT)
    _, errors = up.communicate(timeout=60)
    assert up.returncode == 130
    assert "stopping what was started" in errors
    assert none_left(tmp_path)


@pytest.mark.slow
def test_all_parts_listen_on_loopback_only(cloud_with_prefect: Target) -> None:
    state_dir = state_of("cloud-with-prefect")
    deploy_hello(cloud_with_prefect)
    assert hello(cloud_with_prefect) == "hello"
    listening = [
        connection.laddr
        for process in everyone(state_dir)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or (connection.type == socket.SOCK_DGRAM and not connection.raddr)
    ]
    assert len(listening) >= 4
    assert [address for address in listening if not ipaddress.ip_address(address.ip).is_loopback] == []
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        f"{cloud_with_prefect.prefect_api}/health"
    ) as answer:
        assert answer.read() == b"true"


@pytest.mark.slow
def test_it_works_without_a_network_and_with_a_dead_proxy(tmp_path: Path) -> None:
    isolated = ["unshare", "--user", "--map-root-user", "--net"]
    loopback = (
        "import fcntl,socket,struct; s=socket.socket(); fcntl.ioctl(s, 0x8914, struct.pack('16sH14s', b'lo', 0x1, b''))"
    )
    try:
        subprocess.run([*isolated, sys.executable, "-c", loopback], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system does not let a program leave the network")
    me = f"{sys.executable} -m local_cloud"
    script = f"""
        {sys.executable} -c "{loopback}" &&
        {me} up --json --state-dir {tmp_path} --without prefect && {me} status --state-dir {tmp_path} >&2
        code=$?; {me} down --state-dir {tmp_path} >&2; exit $code"""
    proxies = dict.fromkeys(
        ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9"
    )
    environment = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"} | proxies
    done = subprocess.run(
        [*isolated, "sh", "-c", script], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert Target.model_validate_json(done.stdout).endpoints["s3"] == "http://127.0.0.1:4566"
    assert none_left(tmp_path)


@pytest.mark.slow
def test_logs_can_be_followed(tmp_path: Path) -> None:
    with running_cloud(tmp_path, *ONLY_MINISTACK) as target:
        command = [sys.executable, "-m", "local_cloud", "logs", "ministack", "--follow", "--lines", "0"]
        follow = subprocess.Popen(
            [*command, "--state-dir", str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        try:
            assert follow.stdout is not None
            shown: list[str] = []
            reader = threading.Thread(target=lambda: shown.append(follow.stdout.readline()))  # type: ignore[union-attr]
            reader.start()
            deadline = time.monotonic() + 60
            # What is logged before it follows is not shown.
            for number in itertools.count():
                aws_client(target, "s3").create_bucket(Bucket=f"seen-in-the-log-{number}")
                reader.join(1)
                if shown:
                    break
                assert time.monotonic() < deadline, "nothing was shown"
            assert "seen-in-the-log" in shown[0]
        finally:
            follow.kill()
            follow.communicate()


# --- a small API on the embedded cloud ------------------------------------------------------------------------------


def deploy_hello(target: Target) -> None:
    """A role, a function in S3 and a REST API by one CloudFormation stack; called once, so that its process runs."""
    s3 = aws_client(target, "s3")
    s3.create_bucket(Bucket="code")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("index.py", 'def handler(event, context):\n    return {"statusCode": 200, "body": "hello"}\n')
    s3.put_object(Bucket="code", Key="hello.zip", Body=archive.getvalue(), Metadata={"a": "b"})
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    uri = "arn:aws:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${Function.Arn}/invocations"
    resources = {
        "Role": (
            "AWS::IAM::Role",
            {"RoleName": "hello", "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]}},
        ),
        "Function": (
            "AWS::Lambda::Function",
            {
                "FunctionName": "hello",
                "Runtime": "python3.12",
                "Handler": "index.handler",
                "Role": {"Fn::GetAtt": ["Role", "Arn"]},
                "Code": {"S3Bucket": "code", "S3Key": "hello.zip"},
            },
        ),
        "Api": ("AWS::ApiGateway::RestApi", {"Name": "hello"}),
        "Get": (
            "AWS::ApiGateway::Method",
            {
                "RestApiId": {"Ref": "Api"},
                "ResourceId": {"Fn::GetAtt": ["Api", "RootResourceId"]},
                "HttpMethod": "GET",
                "AuthorizationType": "NONE",
                "Integration": {"Type": "AWS_PROXY", "IntegrationHttpMethod": "POST", "Uri": {"Fn::Sub": uri}},
            },
        ),
        "Deployment": ("AWS::ApiGateway::Deployment", {"RestApiId": {"Ref": "Api"}}),
        "Stage": (
            "AWS::ApiGateway::Stage",
            {"RestApiId": {"Ref": "Api"}, "DeploymentId": {"Ref": "Deployment"}, "StageName": "default"},
        ),
    }
    template: dict[str, Any] = {
        "Resources": {name: {"Type": kind, "Properties": values} for name, (kind, values) in resources.items()},
        "Outputs": {"Id": {"Value": {"Ref": "Api"}}},
    }
    template["Resources"]["Deployment"]["DependsOn"] = "Get"
    cloudformation = aws_client(target, "cloudformation")
    cloudformation.create_stack(
        StackName="hello", TemplateBody=json.dumps(template), Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName="hello", WaiterConfig={"Delay": 1})
    assert hello(target) == "hello"


def hello(target: Target) -> str:
    """Call the API as curl would."""
    return ask(address_of_hello(target))


def address_of_hello(target: Target) -> str:
    outputs = aws_client(target, "cloudformation").describe_stacks(StackName="hello")["Stacks"][0]["Outputs"]
    return f"{target.endpoints['apigateway']}/restapis/{outputs[0]['OutputValue']}/default/_user_request_/"


def ask(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
        return str(answer.read().decode())
