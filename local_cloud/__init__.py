"""The embedded cloud: AWS, SageMaker, the Hub and Prefect on loopback, without an account and without Docker.

Four services, each a process of its own. In the order in which a run meets them:

=================  ====================================================================================
Prefect server     the run's steps, their states and results; approvals and schedules
``hub/``           the Hugging Face Hub: a dataset may come from it, and the trained model goes to it
MiniStack          S3 for the archive; IAM, STS and SSM for preflight and the registry; CloudFormation,
                   Lambda and API Gateway for the API; CloudWatch (``ministack_server``)
``sagemaker/``     SageMaker: training jobs, endpoints that serve the archive, scaling, quotas
=================  ====================================================================================

Around them, from the command to the process:

=================  ====================================================================================
``__main__``       ``python -m local_cloud up | status | logs | down``
``control``        the same from Python
``state``          the folder: the plan, what runs, the logs, and locks
``ports``          which port each service gets
``supervisor``     the process that starts the services and restarts what dies
``services``       how each is started, in which environment, and how it says that it is well
``processes``      children that do not outlive the cloud
``keeper``         what clears up when the supervisor is killed
=================  ====================================================================================
"""
