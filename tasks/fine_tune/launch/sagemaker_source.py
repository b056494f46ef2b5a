"""What a training container needs of this project: its modules, the job file, and the versions of the libraries."""

import importlib.metadata
import shutil
import sys
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from tasks.fine_tune.job import TrainingJob
from tasks.fine_tune.launch.torchrun import JOB, ROOT

ENTRY_SCRIPT = "train.py"
REQUIREMENTS = "requirements.txt"
_ENTRY = "from tasks.fine_tune.launch.entry import main\n\nmain()\n"
_OURS = ("askline", "inference", "tasks")
#: What the image has in a build for its own CUDA, and what only the calling side needs.
_FROM_IMAGE = {"torch", "sagemaker", "boto3", "botocore"}


class _OurModules(ModuleFinder):
    """Follows the imports of our own modules, also those inside functions, and only notes the others."""

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        full = f"{parent.__name__}.{name}" if parent is not None else name
        if full.partition(".")[0] not in _OURS and not (name == "__init__" and path):  # a package's own file
            raise ImportError(full)
        return super().find_module(name, path, parent)


def write_source(job: TrainingJob, folder: Path, *, install: bool) -> None:
    """Write the source folder of a training job: nothing of the rest of the project, and no secret, is in it.

    Parameters
    ----------
    install
        Whether a ``requirements.txt`` names the versions of this machine's libraries.
    """
    script = folder / ENTRY_SCRIPT
    script.write_text(_ENTRY, encoding="utf-8")
    finder = _OurModules(path=[str(ROOT)])
    finder.run_script(str(script))
    for name, module in finder.modules.items():
        place: str | None = getattr(module, "__file__", None)
        if name.partition(".")[0] in _OURS and place:
            source = Path(place)
            source = source / "__init__.py" if source.is_dir() else source
            copy = folder / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    (folder / JOB).write_text(job.model_dump_json(indent=1), encoding="utf-8")
    if install:
        # A name that one of our packages exports is looked for as a module of it, and is none.
        missing = {name.partition(".")[0] for name in finder.badmodules} - set(_OURS)
        lines = [f"{name}=={version}\n" for name, version in sorted(_libraries(missing).items())]
        (folder / REQUIREMENTS).write_text("".join(lines), encoding="utf-8")


def _libraries(modules: set[str]) -> dict[str, str]:
    """Return the installed distributions of these top-level modules, with their versions."""
    owners = importlib.metadata.packages_distributions()
    names = {owner for module in modules - set(sys.stdlib_module_names) for owner in owners.get(module, [])}
    # sentencepiece tokenizers are read through protobuf, which nothing of ours imports.
    names |= {"protobuf", "safetensors"}
    return {name: importlib.metadata.version(name) for name in names - _FROM_IMAGE}
