"""The benchmark: pegasus_green beside its peers, one responder, one run, ratios of CPU time."""
