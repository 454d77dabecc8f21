"""Meta servers, routes, and the dispatch of calls."""
