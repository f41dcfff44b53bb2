"""Archives become predictions over HTTP."""
