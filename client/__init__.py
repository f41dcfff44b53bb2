"""Predictions, over HTTP, and the proof that they are the eager model's. Imports no torch."""

from client.client import Client

__all__ = ["Client"]
