"""What the models of the zoo are trained with, read into splits."""
