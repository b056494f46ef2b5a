"""What surrounds a step: where its calls go, what it is called, what is remembered of it, and who shares its work.

================  =====================================================================================
``run``           opening a run: its target, its token, its name
``connect``       where its calls go; starts the embedded cloud
``run_step``      one step: a line in the terminal, a time limit, a new or a remembered result
``remembering``   under which key, and where
``redo``          from which step on nothing remembered is taken
``retries``       which errors are tried again
``progress``      how far a step is
``lock``          one at a time, on all machines
``workers``       Dask workers that share the work of answering
``on_a_worker``   what one of them does
``approval``      waiting for a person's yes or no
================  =====================================================================================
"""
