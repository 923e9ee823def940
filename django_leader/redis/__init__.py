"""Sockets: one connection to Redis, what is sent on it, and how its replies are read."""
