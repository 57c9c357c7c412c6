"""HTTP to a daemon: addresses, connections, time limits, bodies, and what is refused."""
