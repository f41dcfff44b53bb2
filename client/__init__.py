"""Predictions, over HTTP, and the proof that they are the eager model's. Imports no torch."""
