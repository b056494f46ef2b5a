"""What is zipped for AWS Lambda: the HTTP API in front of the SageMaker endpoints.

The zip holds this folder and AWS Lambda Powertools; boto3 comes with Lambda. Nothing else of askline travels with it.
In the order in which a question passes through:

=================  ====================================================================================
``app``            what Lambda starts: the clients, made once, and the handler
``api``            the routes, and what becomes of an error
``gateway``        API Gateway's events and responses
``body``           a request's body, as one JSON object
``fields``         the members of that object: an MLKey, texts
``asking``         questions
``answering``      from a question to its answer: registry, model, numbers, logs
``registry``       the allow-list: which endpoint stands behind an MLKey
``model``          the call to the endpoint, and the forms of its answers and failures
``waiting``        how long all this may take, and the pauses while an endpoint starts
``question_log``   questions, answers and verdicts in S3, where that is switched on
``redaction``      what is left out of them
``feedback``       verdicts on answers
``metrics``        what CloudWatch counts
``problem``        errors as callers see them
``page``           the page to try the API in a browser (``page.html``)
``openapi``        the API's description of itself (``openapi.json``)
=================  ====================================================================================
"""
