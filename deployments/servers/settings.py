"""What a Prefect server reads when several processes are one server: one database, one Redis."""

#: Where a Prefect server keeps by default, in its own memory, what its fellows have to see.
SHARED = {
    "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
    "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
    "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
    "PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_QUEUE_STORAGE": "prefect_redis.cleanup_queue",
}


def server_settings(database: str, redis: str) -> dict[str, str]:
    """Return the environment of every API server and of the background services.

    Parameters
    ----------
    database
        ``postgresql+asyncpg://user:password@host:5432/prefect``, PostgreSQL 14.9 or newer.
    redis
        ``redis://user:password@host:6379/0``.

    One of the API servers alone may have ``PREFECT_SERVER_REGISTER_BLOCKS_ON_START`` on while several start at once:
    the others fail to add what it adds.
    """
    return {
        **SHARED,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
        # `prefect server database upgrade` does it once, before the servers start: two at once would get in each
        # other's way.
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
        "PREFECT_REDIS_MESSAGING_URL": redis,
        "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": redis,
        # Without it each process would run the schedules for itself.
        "PREFECT_SERVER_DOCKET_URL": redis,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
