"""Which process starts which election, and when: Django, and the servers that run it."""
