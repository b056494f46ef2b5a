"""What stands on a target: listed, gone back from, put right, taken down."""
