"""What the evaluation needs: ``answers``, ``text``, ``scoring`` with ``metrics``, and ``baselines``."""
