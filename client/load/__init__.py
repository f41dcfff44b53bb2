"""`client load`: a served model under load."""
