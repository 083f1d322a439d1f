"""Checks of servers and of environments: one registry, one runner, one kind of result.

``conformance`` tells whether a *server* keeps the protocol, over every transport; ``validation``
whether an *environment* keeps what it promises, by its folder and by its behaviour when served.
"""
