"""What a site of a deployment does."""
