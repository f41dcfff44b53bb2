"""Output kinds: how rows that a graph gives become an answer, and what makes two answers the same decision."""
