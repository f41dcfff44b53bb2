"""`client compare`: the runtimes beside each other."""
