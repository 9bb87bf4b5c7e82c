"""Show the result."""
