"""Silos and their server as processes on machines of their own, over Flower."""
