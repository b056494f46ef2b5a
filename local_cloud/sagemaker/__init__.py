"""SageMaker on one machine: control plane and runtime on one port, serving real archives in child processes.

``docs/embedded-sagemaker.md`` says what in it is real and what stands in. A room imports only those below it here:

=============  ========================================================================================
``app``        the HTTP side: which room a request goes to
``training/``  training jobs: ``jobs`` are the operations, ``runs`` what becomes of one
``scaling/``   Application Auto Scaling: ``autoscaling`` is its API, ``scaler`` what follows its policies
``api/``       the operations on endpoints and on calls (``control``, ``runtime``), and what is checked first
``serving/``   endpoints at work: ``endpoints`` their lives, ``deployment`` one of them, ``container`` a process
the rest       what all of them stand on: errors, state on disk, settings, archives, metrics and alarms
=============  ========================================================================================
"""
