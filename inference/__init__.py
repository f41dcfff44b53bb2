"""What travels: an archive carries this package whole, and beside it its model's file and its host's handler."""
