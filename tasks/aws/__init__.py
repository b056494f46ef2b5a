"""What the steps that call AWS share: error messages, the deployment plan, stacks, the Lambda zip."""
