"""Least-privilege IAM policies, generated from the configuration.

::

    python -m deployments.iam --config aws.toml --out policies

What each policy and statement is for stands in ``docs/iam.md``; the files beside this one are those of the defaults.
"""
