"""Certification: whether an environment is fit to be trained on.

Each line of a certificate is a check of the kind ``certificate``: an async function whose docstring
says what is promised. A line that cannot be tested is "not shown", never passed.
"""

from openenv_async.checks.certify.run import CHECKS, Certificate, certify

__all__ = ["CHECKS", "Certificate", "certify"]
