"""What travels: an archive carries this package whole, and of the project nothing else but its model's file."""
