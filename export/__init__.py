"""Weights become one verified artifact and one archive per runtime."""
