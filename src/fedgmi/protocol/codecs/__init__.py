"""How models travel under a communication budget: precision, the largest entries, masks, layers."""
