"""The programs inside: the zygote, and the workers that it forks.

It is started by path and imports nothing but the standard library, so that neither the server's
modules nor its secrets are in the memory that untrusted code can read.
"""
