"""The benchmark: compare the CPU time of pegasus_green with that of its peers, with one responder, in one run."""
