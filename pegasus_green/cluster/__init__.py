"""Who serves what: meta servers, routes, and the way of one call through them."""
