"""A folder of archives from outside: what its manifest says of each, and how an archive runs by its own code."""
