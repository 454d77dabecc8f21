"""Owns the answers of meta and replica servers, and their deaths and returns; never keeps tables or records itself."""
