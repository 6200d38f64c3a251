"""Studies: a grid of config keys × seeds, each cell a run of its own, with one table at the end."""
