"""The steps: a room for each, and what they share.

A room's core is the module of its own name; it takes a :class:`~tasks.workplace.Workplace` and runs in a REPL, without
Prefect. In the order in which a dataset passes through:

=====================  ================================================================================
``fetch_dataset``      from files, the Hub, S3 or the web to clean questions and answers, split
``fine_tune``          from a base and a dataset to a model; ``launch`` has it done elsewhere
``second_opinion``     the known questions and answers, for a second look at each answer
``evaluate``           how well the model answers, beside what it must beat
``gate``               whether it is good enough, and better than the one that is deployed
``push_to_hub``        the model with its card, on the Hub
``package``            ``model.tar.gz``, proved in a clean process, and its way to S3
``preflight``          what must be so before anything is created
``deploy_serverless``  the SageMaker endpoint: plan, size, price, act; the registry of what is promoted
``deploy_api``         Lambda and API Gateway in front of it
``smoke_invoke``       the evaluation's questions once more, to what is deployed
=====================  ================================================================================

Afterwards, and around them:

=====================  ================================================================================
``deployed``           what stands: inventory, status, rollback, restoring, taking down
``batch_answer``       a file of questions, answered with the deployed package
``feedback``           what callers asked and thought, as new training data
``report``             ``report.json``, the page, pictures and tables
``running``            what surrounds a step: what is remembered, retries, the lock, workers, approval
``steps``              the Prefect tasks, one page, in the order of the recipe
=====================  ================================================================================

The ground, which imports no room above it:

=====================  ================================================================================
``qa``                 what a question is: rows, prompt, predictions, the same answer
``t5``                 what training, evaluation and packaging share of the model
``ask``                one question to an endpoint or a package
``graphs``             ONNX graphs, written node by node
``aws``                errors, names, roles and the form of IAM's statements
``workplace``          where a step works: target, folders, store, progress
``identity``           what a remembered result depends on
=====================  ================================================================================

Who may import whom is a contract in ``pyproject.toml``; ``python -m benchmarks.house --rooms`` draws it.
"""
