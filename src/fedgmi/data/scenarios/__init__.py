"""Scenarios: who holds which rows, and the truth about them."""
