"""Owns the files of a onebox whose data stays: rows, decrees and tables; never answers requests, never replicates."""
