"""What fine-tuning needs: recipes, the base model, examples, checkpoints, the loop and the export.

``recipe`` says how to train, ``base`` where the weights and the tokenizer come from, ``scratch`` makes both from
the dataset alone. ``examples`` turns rows into batches, with the help of ``augment``. ``loop`` runs the trainer,
``checkpoints`` finds what a killed run left, and ``export`` writes a checkpoint that other versions read rightly.
"""
