"""`client verify`: the proof that what is served is what the eager model answers."""
