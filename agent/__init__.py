"""Awake: sessions, turns, and what stands in the context window. Knows no HTTP."""
