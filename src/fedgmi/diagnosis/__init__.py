"""What a federation is made of, as far as its word counts tell."""
