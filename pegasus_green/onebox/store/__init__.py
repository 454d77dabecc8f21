"""Owns the data files of a onebox: rows, decrees and tables; never answers requests, never replicates."""
