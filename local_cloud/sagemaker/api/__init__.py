"""What a caller of SageMaker meets: its operations, and all that is checked before one is carried out."""
