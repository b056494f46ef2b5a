"""SageMaker on one machine: control plane and runtime on one port, serving real archives in child processes.

``docs/embedded-sagemaker.md`` says what in it is real and what stands in.
"""
