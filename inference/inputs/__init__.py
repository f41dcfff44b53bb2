"""Input kinds: how the bytes of a request become rows of the array that a graph takes."""
