"""Owns what meta and replica servers answer, and their deaths and returns; never keeps tables or records itself."""
