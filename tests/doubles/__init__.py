"""A kind of input and a kind of output that the project does not have, and a model of both: two files and one."""
