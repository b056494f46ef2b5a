"""A lean server for one unpacked SageMaker archive. It needs uvicorn and whatever the archive itself imports."""
