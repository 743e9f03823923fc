"""What the coordinator of a deployment does."""
