"""Noise that protects rows."""
