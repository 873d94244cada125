"""Measurements that print JSON, and the server process that they and the tests start."""
