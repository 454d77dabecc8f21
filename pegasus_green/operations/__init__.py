"""The verbs of a table, grouped by kind. ``pegasus_green.Table`` inherits all of them."""
