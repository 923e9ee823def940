"""Threads: a candidate that takes its turns, what ``is_leader()`` reads, and the callbacks of the application."""
