"""The recipe: what the configuration leaves open, filled in to suit the base and the dataset."""

import math
from typing import Literal

from askline.config import TrainingConfig
from askline.records import Record
from tasks.t5.scratch import AUTO, SCRATCH

#: A small T5 starts from noise, so that it needs many steps on little data too: twelve questions were answered without
#: a mistake after 100, a thousand take all of these. On large data it needs at least these passes.
FEWEST_SCRATCH_STEPS, SCRATCH_STEPS = 150, 400
SCRATCH_EPOCHS = 15


class Recipe(Record):
    """Everything that shapes the trained weights besides the base and the dataset; written into ``askline.json``."""

    steps: int
    """Optimizer steps."""
    batch_size: int
    learning_rate: float
    schedule: Literal["linear"] = "linear"
    warmup: float
    """Share of the steps over which the learning rate rises."""
    weight_decay: float
    adam_beta2: float
    max_grad_norm: float = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """"auto" is decided on the machine that trains."""
    augment: bool
    word_drop: float
    """Share of a question's words that augmentation leaves out."""
    mixing: float
    """Chance of a question to be asked in the words of two wordings of the same fact."""
    subword_sampling: float
    """Share of a question's words that are cut into other subwords than the best ones; 0 for a pretrained base."""
    out_of_scope_share: float
    """Invented out-of-scope questions, as a share of the training questions; only where the dataset has real ones."""
    label_smoothing: float = 0.0
    """Share of each label that is spread over all tokens."""
    seed: int


def resolve_recipe(config: TrainingConfig, *, rows: int, has_out_of_scope: bool) -> Recipe:
    """Fill in what ``config`` leaves open.

    A pretrained base is fine-tuned with the settings that Flan-T5 is usually given; a small T5 from scratch takes
    larger steps, larger batches, and varies the wording of the questions.

    Parameters
    ----------
    rows
        Number of training questions.
    has_out_of_scope
        Whether some of them are out of scope: only then is the model taught to abstain on invented ones too.
    """
    scratch = config.base in (SCRATCH, AUTO)
    batch_size = config.batch_size or (64 if scratch else 4)
    augment = scratch if config.augment is None else config.augment
    # What is invented is added to the rows, so that an epoch is a little longer than the dataset.
    out_of_scope_share = OUT_OF_SCOPE_SHARE if augment and has_out_of_scope else 0.0
    steps_per_epoch = math.ceil(rows * (1 + out_of_scope_share) / batch_size)
    if config.max_steps is not None:
        steps = config.max_steps
    elif config.epochs is not None:
        steps = max(1, math.ceil(config.epochs * steps_per_epoch))
    elif scratch:
        steps = max(min(FEWEST_SCRATCH_STEPS + rows, SCRATCH_STEPS), SCRATCH_EPOCHS * steps_per_epoch)
    else:
        steps = 6 * steps_per_epoch
    return Recipe(
        steps=steps,
        batch_size=batch_size,
        learning_rate=config.learning_rate or (1.2e-3 if scratch else 3e-4),
        warmup=0.05 if scratch else 0.0,
        weight_decay=config.weight_decay,
        adam_beta2=0.98 if scratch else 0.999,
        precision=config.precision,
        augment=augment,
        word_drop=0.1 if augment else 0.0,
        mixing=0.3 if augment else 0.0,
        subword_sampling=0.1 if augment and scratch else 0.0,
        out_of_scope_share=out_of_scope_share,
        label_smoothing=config.label_smoothing,
        seed=config.seed,
    )


#: More of them teach the model to refuse what it knows.
OUT_OF_SCOPE_SHARE = 0.03
