"""The test suites of the frameworks, run against the backends of this package. suites.py starts them."""
