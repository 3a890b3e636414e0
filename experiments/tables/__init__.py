"""Long experiments whose results are committed: one resumable command a table."""
