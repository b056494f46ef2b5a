"""torchrun, tied to the process that started it: ``python -m tasks.fine_tune.launch.agent <torchrun's own options>``.

It is torch's elastic launcher, with two things added: it stops when its parent dies, and it says of a process that
was ended by a signal which one that was.
"""

import signal
import sys

from tasks.fine_tune.launch.entry import end_with_parent
from tasks.fine_tune.launch.events import ProcessEvent, tell


def main(argv: list[str] | None = None) -> None:
    """Run torchrun with these options; exit with 1 where a process failed, with 128 + its number after a signal."""
    end_with_parent()
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = parse_args(sys.argv[1:] if argv is None else argv)  # type: ignore[no-untyped-call]
    try:
        run(options)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                # The processes count their attempts in their environment; what is left at the end was the last.
                tell(
                    ProcessEvent(
                        error=f"it was ended by the signal {name}",
                        rank=rank,
                        killed=name != "SIGTERM",  # with SIGTERM the launcher itself stops those that are left
                        attempt=int(options.max_restarts),
                        at=float(failure.timestamp),
                    )
                )
        sys.exit(1)
    except SignalException as error:
        sys.exit(128 + int(error.sigval))


if __name__ == "__main__":
    main()
