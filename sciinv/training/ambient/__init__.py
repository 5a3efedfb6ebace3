"""Priors learned from corrupted data: one file an equation, general over items that carry an operator."""
