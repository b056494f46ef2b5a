"""LoRA: a few small matrices are trained beside a large base that stays as it is (Hu et al. 2021,
https://arxiv.org/abs/2106.09685), and added into it at the end.
"""

from pathlib import Path
from typing import Any

from askline.config import LoraTuningConfig
from askline.errors import TrainingError

#: Folder of the adapter in a model artifact.
ADAPTER = "adapter"


def add_adapter(model: Any, config: LoraTuningConfig, *, seed: int) -> Any:
    """Return the model with an adapter to be trained, its own weights frozen.

    Raises
    ------
    TrainingError
        If the model has no layers of the configured names.
    """
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import set_seed

    set_seed(seed)
    try:
        adapted = get_peft_model(
            model,
            LoraConfig(
                task_type=TaskType.SEQ_2_SEQ_LM,
                r=config.rank,
                lora_alpha=config.alpha if config.alpha is not None else 2 * (config.rank or 0),
                lora_dropout=config.dropout,
                target_modules=list(config.target_modules),
            ),
        )
    except ValueError as error:
        layers = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if hasattr(part, "weight")})
        raise TrainingError(
            f"no layer of the base is named {' or '.join(config.target_modules)}; --training.lora.target-modules takes "
            f"some of {', '.join(layers)}"
        ) from error
    # Each checkpoint would otherwise look for the base's configuration on the Hub; the name is set at the end.
    adapted.peft_config["default"].base_model_name_or_path = None
    return adapted


def merge(adapted: Any, folder: Path, *, base: str, revision: str | None) -> Any:
    """Write the adapter into ``folder / "adapter"``, and return the base with the adapter added into its weights.

    Parameters
    ----------
    base, revision
        What the adapter belongs to, for whoever loads it: a Hub id and commit, or a folder's name.
    """
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.peft_config["default"].revision = revision
    # A set, whose order differs from process to process: equal models are to have equal files.
    adapted.peft_config["default"].target_modules = sorted(adapted.peft_config["default"].target_modules)
    adapted.save_pretrained(folder / ADAPTER, safe_serialization=True, save_embedding_layers=False)
    (folder / ADAPTER / "README.md").unlink(missing_ok=True)  # the model's own card stands one folder up
    return adapted.merge_and_unload()
