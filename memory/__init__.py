"""What happened, in SQLite: sessions, transcripts, turns. Loads no network library."""
