"""What is written and checked before a deployment starts."""
