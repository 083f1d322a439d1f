"""Adapters for trainers. Each needs its extra; import them from their own modules."""
