"""Sums of sites' messages that show no single one: keys, masks, and shares by which masks of absent sites are found."""
