"""A gateway between agents and inference engines, which keeps every token of a session."""
