"""One process of a test: trains each job that is named, one after the other, and then looks at what it holds.

::

    torchrun … tests/support/fsdp_process.py JOB…

The last job is asked to stop on the way, as by a machine that is taken away, and then goes on.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def main(paths: list[str]) -> None:
    import torch
    from accelerate import PartialState

    from askline.errors import TrainingStoppedError
    from tasks.fine_tune.job import TrainingJob, run_job
    from tasks.fine_tune.sharding import gathered, shard
    from tasks.t5.base import Base, load_base

    *others, last = [TrainingJob.model_validate_json(Path(path).read_text(encoding="utf-8")) for path in paths]
    choices = [run_job(job).choices for job in others]
    processes = PartialState()

    def ask_to_stop(share: float, message: str = "") -> None:
        if message.startswith("step ") and 0.25 <= share < 1:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = ""
    try:
        run_job(last, progress=ask_to_stop)
    except TrainingStoppedError as error:
        stopped = str(error)
    run_job(last)

    assert last.base is not None
    model, _ = load_base(Base(last.base, "tiny", None, ""))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    shard(model, bf16=False, device=processes.device, processes=processes.num_processes)
    parts = [parameter.to_local() for parameter in model.parameters()]
    whole = gathered(model, first=processes.is_main_process)
    found = {
        "rank": processes.process_index,
        "held": sum(part.untyped_storage().nbytes() for part in parts),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gathered": whole is not None
        and whole.state_dict().keys() == before.keys()
        and all(torch.equal(weight, before[name]) for name, weight in whole.state_dict().items()),
        "tied": whole is not None and whole.encoder.embed_tokens.weight is whole.shared.weight,
        "choices": choices,
        "stopped": stopped,
    }
    Path(os.environ["FOUND"], f"{processes.process_index}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
