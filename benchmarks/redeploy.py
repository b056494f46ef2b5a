"""Redeploy while clients ask, break deployments in every way, kill them at every step, and count what it costs callers.

::

    python -m benchmarks.redeploy                      # all of it, some minutes
    python -m benchmarks.redeploy --requests 200 --only load

It starts an embedded cloud of its own on free ports in a temporary folder, and stops it at the end. What is deployed is
an archive of a few lines that says which version it is; upload, deployment, smoke test, promotion and putting right are
the pipeline's own. ``kill -9`` comes from a proxy in front of SageMaker, at a call of its choice. Exit code 1 if a
request failed, an orphan was left, or a run did not end as it should.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from askline.records import Target
from benchmarks.redeploy_act import Bench, clients, proxied
from local_cloud import control

KINDS = ("serverless", "real-time")
#: Calls at which a first deployment is killed, and those of a redeployment.
FIRST = ("CreateModel", "CreateEndpointConfig", "CreateEndpoint", "InvokeEndpoint")
AGAIN = ("CreateModel", "CreateEndpointConfig", "UpdateEndpoint", "InvokeEndpoint")


@contextmanager
def cloud(state_dir: Path) -> Iterator[Target]:
    """Run an embedded cloud on free ports for as long as the block lasts."""
    try:
        yield control.up(state_dir, without=("prefect", "hub"))
    finally:
        control.down(state_dir)


def load(bench: Bench, kind: str, requests: int) -> bool:
    """Redeploy under load: in place, with an archive that is broken, and with one that answers wrongly."""
    mlkey = f"load-{kind}"
    bench.act(mlkey, "one", kind=kind)
    rows = [
        ("update in place", "two", None, "updated"),
        ("broken archive", "bad", "load", "failed"),
        ("wrong answers", "odd", "answer", "failed"),
        ("back to the first", "one", None, "updated"),
    ]
    fine = True
    print(f"\n{kind}: 4 clients ask without a pause\n")
    print(f"  {'what':<20}{'run':<10}{'requests':>9}{'failed':>8}{'p50 ms':>8}{'p95 ms':>8}  answered by")
    for what, version, breaks, expected in rows:
        with clients(bench.target, mlkey, at_least=requests) as asked:
            done = bench.act(mlkey, version, kind=kind, breaks=breaks)
        print(f"  {what:<20}{done.said:<10}{asked.line()}")
        fine = fine and asked.failed == 0 and done.said == expected and asked.count >= requests
        if done.error:
            print("\n".join(f"      {line}" for line in done.error.splitlines()))
    return fine


def kills(bench: Bench, kind: str) -> bool:
    """Kill a first deployment and a redeployment at each step, and look what the next run makes of it."""
    fine = True
    print(f"\n{kind}: kill -9 at each step\n")
    print(f"  {'deployment':<12}{'killed at':<24}{'left behind':<46}{'next run':<22}{'answers':<10}orphans")
    for first, steps in ((True, FIRST), (False, AGAIN)):
        for number, call in enumerate(steps):
            # The next run brings the same package; of every second one another, which needs nothing of the first.
            mlkey = f"kill-{kind}-{'first' if first else 'again'}-{number}"
            if not first:
                bench.act(mlkey, "one", kind=kind)
            with proxied(bench.target, call) as through:
                dead = bench.act(mlkey, "two", kind=kind, target=through)
            left = bench.left(mlkey)
            version = "two" if number % 2 == 0 else "six"
            done = bench.act(mlkey, version, kind=kind)
            answers, orphans = bench.answering(mlkey), bench.orphans(mlkey)
            what = "first" if first else "redeploy"
            print(f"  {what:<12}{call:<24}{left:<46}{f'{version}: {done.said}':<22}{answers:<10}{len(orphans)}")
            fine = fine and dead.said == "killed" and answers == version and not orphans
            if done.error:
                print(f"      {done.error}")
    return fine


def provoked(bench: Bench) -> bool:
    """Break it from outside; the error must be clear, and what served before must go on answering."""
    mlkey = "provoked"
    bench.act(mlkey, "one", kind="serverless")
    print("\nprovoked: what is said, and who answers afterwards\n")
    fine = True
    cases: list[tuple[str, Callable[[], str | None]]] = [
        ("a broken archive", lambda: bench.act(mlkey, "bad", kind="serverless", breaks="load").error),
        ("an archive with nothing in it", lambda: bench.act(mlkey, "nil", kind="serverless", breaks="empty").error),
        ("answers after 61 s", lambda: bench.act(mlkey, "low", kind="serverless", breaks="slow").error),
        ("a question of 5 MB", lambda: bench.ask_badly(mlkey, "x" * 5_000_000)),
        ("a bad name", lambda: bench.act("no/name", "one", kind="serverless").error),
        ("real-time to serverless", lambda: _one_way(bench)),
    ]
    for what, provoke in cases:
        said = provoke()
        answers = bench.answering(mlkey)
        print(f"  {what}: {answers!r} answers, {len(bench.orphans(mlkey))} orphans")
        print("\n".join(f"      {line}" for line in (said or "no error!").splitlines()))
        fine = fine and said is not None and answers == "one" and not bench.orphans(mlkey)
    return fine


def _one_way(bench: Bench) -> str | None:
    bench.act("one-way", "one", kind="real-time")
    return bench.act("one-way", "one", kind="serverless").error


def main() -> int:
    """Run it all and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redeploy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=1000, help="at least so many for each row (default 1000)")
    parser.add_argument("--only", choices=("load", "kills", "provoked"), help="one part")
    options = parser.parse_args()
    fine = []
    with tempfile.TemporaryDirectory(prefix="askline-redeploy-") as folder, cloud(Path(folder) / "cloud") as target:
        bench = Bench(target, Path(folder) / "packages")
        for kind in KINDS:
            if options.only in (None, "load"):
                fine.append(load(bench, kind, options.requests))
            if options.only in (None, "kills"):
                fine.append(kills(bench, kind))
        if options.only in (None, "provoked"):
            fine.append(provoked(bench))
    print("\nall as it should be" if all(fine) else "\nNOT as it should be")
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
