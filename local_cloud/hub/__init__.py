"""The embedded Hugging Face Hub: a small server that the official clients use as they use the real one.

Run it with ``python -m local_cloud.hub --port 8900 --state .askline/hub`` and set ``HF_ENDPOINT`` to its address.
``docs/embedded-hub.md`` says what in it is real and what is a stand-in.
"""
