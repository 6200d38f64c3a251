"""Differential privacy: per-example gradients, accounting and plans. Opacus is imported late."""
