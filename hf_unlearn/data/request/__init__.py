"""Which records a request names."""
