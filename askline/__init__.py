"""What crosses rooms: the configuration, the records, the errors and the artifact store.

Nothing here imports Prefect, torch or an AWS client, so that ``--help`` answers at once and every room can
depend on it.
"""

__version__ = "0.1.0"
