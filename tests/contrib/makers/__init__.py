"""The makers' own suites made to run against our backends; each runs in a process of its own, see suites.py."""
