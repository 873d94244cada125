"""Asleep: from what was told to what is known. Turns experiences into facts, facts into examples, and examines."""
