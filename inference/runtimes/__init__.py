"""Adding a runtime is adding one file here: `export` writes its artifact, `load` gives back a callable.

A file whose name has an underscore computes in another precision than training did. It is built on the file named by
what stands before the underscore.
"""
