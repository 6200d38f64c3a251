"""Several clients side by side in one forward pass of the frozen model that they share."""
