"""The names of other projects on top of this runtime, for people who port from them."""
