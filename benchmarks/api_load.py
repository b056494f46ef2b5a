"""The API under load on the embedded cloud, beside the endpoint asked directly: failures, 429s, latencies.

``python -m benchmarks.api_load [--clients 16] [--seconds 60]`` starts an embedded cloud in a temporary folder, deploys
an endpoint and the API, and measures three things with the same questions:

1. one client, then
2. as many clients as the endpoint answers at once (its MaxConcurrency), each asking the API and the endpoint in turn;
   no request may fail, and both must say the same;
3. the same clients with an endpoint that answers only a quarter as many at once; each request must be answered or
   refused with 429 and Retry-After.

It prints percentiles and the API layer's share of the time, and exits with 1 where something failed. Clients, gateway,
functions and model share this machine's cores, so the figures under load say how long things queue here, not on AWS.
"""

import argparse
import csv
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from askline.clients import aws_client
from askline.records import ApiRef, Target
from benchmarks.plain_endpoint import ANSWERS, Bench, archive, embedded_cloud
from tasks.deploy_api.call import dialable

MLKEY = "load"
SAMPLE_QUESTIONS = Path(__file__).parents[1] / "data" / "biography" / "test.csv"
ONE_CLIENT_SECONDS = 6.0
#: Longer than API Gateway waits on AWS, so that what is slow shows up as slow.
PATIENCE_SECONDS = 60
#: More than one machine can ask: what throttles in this benchmark is the endpoint, not the stage.
STAGE_LIMIT = "5000"
Row = tuple[str, int, int, list[float]]


@dataclass
class Asked:
    """What became of one kind of request, over all clients."""

    seconds: list[float] = field(default_factory=list)
    """Time of each that was answered."""
    refused: list[float] = field(default_factory=list)
    """Time of each clean 429."""
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Asked") -> None:
        """Take over another's requests."""
        self.seconds += other.seconds
        self.refused += other.refused
        self.failures += other.failures

    @property
    def failed(self) -> int:
        """How many were neither answered nor cleanly refused."""
        return sum(self.failures.values())


class Client:
    """One caller: its own connection to the API, and a boto3 client that it shares."""

    def __init__(self, api: ApiRef, endpoint: str, runtime: Any) -> None:
        self.url, headers = dialable(api.url)
        self.http = httpx.Client(headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)
        self.endpoint = endpoint
        self.runtime = runtime

    def ask_api(self, question: str, asked: Asked) -> str | None:
        """Ask the API, note how it went, and return the answer if there is one."""
        began = time.perf_counter()
        try:
            reply = self.http.post(self.url, json={"MLKey": MLKEY, "question": question})
            body = reply.json()
        except (httpx.HTTPError, ValueError) as error:
            asked.failures[f"{type(error).__name__}: {error}"[:120]] += 1
            return None
        took = time.perf_counter() - began
        if reply.status_code == 200 and isinstance(body.get("answer"), str):
            asked.seconds.append(took)
            return str(body["answer"])
        if reply.status_code == 429 and is_clean(reply, body):
            asked.refused.append(took)
        else:
            asked.failures[f"{reply.status_code} {reply.text}"[:120]] += 1
        return None

    def ask_endpoint(self, question: str, asked: Asked) -> str | None:
        """Ask the endpoint without the API."""
        from botocore.exceptions import BotoCoreError, ClientError

        began = time.perf_counter()
        try:
            reply = self.runtime.invoke_endpoint(
                EndpointName=self.endpoint, ContentType="application/json", Body=json.dumps({"inputs": question})
            )
            document = json.loads(reply["Body"].read())
        except (ClientError, BotoCoreError) as error:
            asked.failures[f"{type(error).__name__}: {error}"[:120]] += 1
            return None
        asked.seconds.append(time.perf_counter() - began)
        return str(document["answers"][0]["answer"])


def is_clean(reply: httpx.Response, body: Any) -> bool:
    """Say whether a 429 tells the caller what it should: a problem document, and when to come back."""
    problem = reply.headers.get("content-type", "").startswith("application/problem+json")
    return bool(problem and body.get("status") == 429 and reply.headers.get("retry-after", "").isdigit())


def run(clients: Sequence[Client], seconds: float, turn: Callable[[Client, str], None], questions: list[str]) -> float:
    """Have every client take turns until time is up; return how long it took."""
    began = time.monotonic()
    start = threading.Barrier(len(clients))

    def work(number: int) -> None:
        mine = itertools.cycle(questions[number:] + questions[:number])
        start.wait(30)
        deadline = time.monotonic() + seconds
        for question in mine:
            if time.monotonic() >= deadline:
                return
            turn(clients[number], question)

    with ThreadPoolExecutor(len(clients)) as pool:
        for done in [pool.submit(work, number) for number in range(len(clients))]:
            done.result()
    return time.monotonic() - began


class Both:
    """Requests to the API and to the endpoint in turn, and whether the two say the same."""

    def __init__(self) -> None:
        self.api, self.endpoint = Asked(), Asked()
        self.different: Counter[str] = Counter()
        self.lock = threading.Lock()

    def turn(self, client: Client, question: str) -> None:
        """Ask both the same question."""
        api, endpoint = Asked(), Asked()
        through, direct = client.ask_api(question, api), client.ask_endpoint(question, endpoint)
        with self.lock:
            self.api.add(api)
            self.endpoint.add(endpoint)
            if through is not None and direct is not None and through != direct:
                self.different[f"{question!r}: {through!r}, directly {direct!r}"[:160]] += 1

    def only_api(self, client: Client, question: str) -> None:
        """Ask the API alone."""
        asked = Asked()
        client.ask_api(question, asked)
        with self.lock:
            self.api.add(asked)

    @property
    def wrong(self) -> Counter[str]:
        """All that must not happen, with how often it did."""
        return self.api.failures + self.endpoint.failures + self.different


def percentile(seconds: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile."""
    ranked = sorted(seconds)
    return ranked[min(len(ranked) - 1, max(0, round(share * len(ranked) + 0.5) - 1))]


def table(rows: Sequence[Row]) -> str:
    """Return the figures as lines of text, times in milliseconds."""
    lines = [f"{'':<40}{'requests':>9}{'failed':>8}{'p50':>8}{'p90':>8}{'p95':>8}{'p99':>8}{'max':>8}"]
    for name, requests, failed, seconds in rows:
        shares = (0.5, 0.9, 0.95, 0.99, 1.0)
        times = "".join(f"{1000 * percentile(seconds, share):8.1f}" for share in shares) if seconds else ""
        lines.append(f"{name:<40}{requests:>9}{failed:>8}{times}")
    return "\n".join(lines)


def share(both: Both) -> str:
    """Say what the API adds to the endpoint's median."""
    if not both.api.seconds or not both.endpoint.seconds:
        return "not known"
    api, endpoint = statistics.median(both.api.seconds), statistics.median(both.endpoint.seconds)
    return f"{1000 * (api - endpoint):.1f} ms of {1000 * api:.1f} ms at the median ({(api - endpoint) / api:.0%})"


def newest_package(store: Path) -> Path | None:
    """Return the newest packaged model in an artifact store."""
    found = sorted(store.glob("**/package/*/model.tar.gz"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def questions_of_the_sample() -> list[str]:
    """Return the sample's held-out questions; any model takes them."""
    with SAMPLE_QUESTIONS.open(encoding="utf-8", newline="") as file:
        return [row["question"] for row in csv.DictReader(file)]


def rows_of(name: str, both: Both) -> Iterator[Row]:
    """Yield one line for the API and one for the endpoint."""
    for kind, asked in (("the API", both.api), ("the endpoint", both.endpoint)):
        yield f"{name}, {kind}", len(asked.seconds) + asked.failed, asked.failed, asked.seconds


def measure(target: Target, content: bytes, memory_mb: int, clients: int, seconds: float) -> bool:
    """Deploy, measure and print; return whether everything was as it must be."""
    bench = Bench(target)
    endpoint = bench.serve(MLKEY, content, memory_mb=memory_mb, max_concurrency=clients)
    api = bench.api("askline-load", RateLimit=STAGE_LIMIT, BurstLimit=STAGE_LIMIT)
    runtime = aws_client(
        target,
        "sagemaker-runtime",
        max_pool_connections=clients,
        read_timeout=PATIENCE_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 1},
    )
    callers = [Client(api, endpoint, runtime) for _ in range(clients)]
    questions = questions_of_the_sample()

    warm_up, alone, together, above = Both(), Both(), Both(), Both()
    # Each concurrent request needs a function environment of its own; all have started when all clients were answered.
    took = run(callers, 2.0, warm_up.only_api, questions)
    slowest = max(warm_up.api.seconds, default=0.0)
    print(f"warm-up: {len(warm_up.api.seconds)} answers in {took:.1f} s, the slowest after {slowest:.1f} s", flush=True)
    run(callers[:1], min(ONE_CLIENT_SECONDS, seconds), alone.turn, questions)
    took = run(callers, seconds, together.turn, questions)
    rate = (len(together.api.seconds) + len(together.endpoint.seconds)) / took
    bench.serve(MLKEY, content, memory_mb=memory_mb, max_concurrency=max(1, clients // 4))
    run(callers, seconds, above.only_api, questions)

    crowded = f"{clients} clients, {max(1, clients // 4)} at once"
    rows = [*rows_of("one client", alone), *rows_of(f"{clients} clients", together)]
    rows.append(
        (f"{crowded}: answered", len(above.api.seconds) + above.api.failed, above.api.failed, above.api.seconds)
    )
    rows.append((f"{crowded}: 429, Retry-After", len(above.api.refused), 0, above.api.refused))
    print("milliseconds")
    print(table(rows))
    print(f"the share of gateway and function, one client:  {share(alone)}")
    print(f"the share of gateway and function, {clients} clients: {share(together)}")
    print(f"{clients} clients: {rate:.0f} requests a second, half of them to the API")
    wrong = warm_up.wrong + alone.wrong + together.wrong + above.wrong
    early = [len(part.api.refused) for part in (warm_up, alone, together)]
    if any(early):
        wrong[f"429 although the endpoint may answer {clients} at once"] += sum(early)
    if not above.api.refused:
        wrong["no 429 above MaxConcurrency"] += 1
    for what, count in wrong.most_common(10):
        print(f"FAILED {count} times: {what}")
    print("no request failed" if not wrong else f"{sum(wrong.values())} things went wrong")
    return not wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 where a request failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.api_load", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clients", type=int, default=16, help="callers at once (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="length of each of the two loads (default 60)")
    parser.add_argument(
        "--package",
        default="auto",
        metavar="auto|plain|FILE",
        help="what the endpoint serves: the newest package in --store and otherwise a few lines of Python (auto), "
        "those lines (plain), or this model.tar.gz",
    )
    parser.add_argument("--store", type=Path, default=Path(".askline"), help="artifact store (default %(default)s)")
    options = parser.parse_args(argv)
    if not 2 <= options.clients <= 200 or options.seconds <= 0:
        parser.error("--clients must be from 2 to 200 (an endpoint's largest MaxConcurrency), --seconds above 0")
    path = newest_package(options.store) if options.package == "auto" else None
    if options.package not in ("auto", "plain"):
        path = Path(options.package)
        if not path.is_file():
            parser.error(f"--package {path}: there is no such file")
    served = f"{path} ({path.stat().st_size / 1e6:.1f} MB)" if path else "a few lines of Python, no model"
    busy = f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before"
    print(f"serves {served}; Python {platform.python_version()}, {busy}", flush=True)
    content = path.read_bytes() if path else archive(ANSWERS)
    with tempfile.TemporaryDirectory(prefix="askline-load-") as folder, embedded_cloud(Path(folder)) as target:
        good = measure(target, content, 3072 if path else 1024, options.clients, options.seconds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
