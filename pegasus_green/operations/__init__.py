"""The verbs of a table, by kind; ``pegasus_green.table.Table`` is all of them together."""
