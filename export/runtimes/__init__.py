"""Adding a runtime is adding one file here: `export` writes its artifact, `load` gives back a callable."""
