"""Where an artifact that differs from eager begins to differ."""
