"""How the Hub says no."""


class RefusedError(Exception):
    """A request that the Hub turns down, with the status and the error code that the official clients look for.

    Parameters
    ----------
    status
        HTTP status.
    message
        One sentence for the person who reads the client's traceback.
    code
        ``RepoNotFound``, ``RevisionNotFound`` or ``EntryNotFound``; huggingface_hub turns them into its exceptions.
    commit
        Commit of the revision that was found, where only the file is missing. Clients remember such an absence.
    """

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.commit = commit
