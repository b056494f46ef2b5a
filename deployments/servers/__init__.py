"""A Prefect server in several processes on PostgreSQL and Redis; see docs/more-machines.md."""
