"""Targets: from anything that names an environment to a server, and sessions on it.

Rules:

- Classes come from declarations of the environment: its entry point, its manifest, its type
  parameters, or the server's schema. No name is guessed.
- Installed environments are trusted; others are not. From a URL, an image alone or a Space come
  schemas, never code, unless ``trust_remote_code=True``.
- A client that ``AutoEnv`` gives owns the server that was started for it: ``close`` ends both.
"""
