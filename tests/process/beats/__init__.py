"""Beats that are killed, stopped and frozen at random instants, and what the broker got: each tick once."""
