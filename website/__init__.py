"""What the documentation site needs besides docs/ and the docstrings."""
