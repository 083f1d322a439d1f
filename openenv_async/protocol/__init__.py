"""The ``openenv.v1`` wire protocol, without I/O: frames, codecs, sequence and lifecycle rules."""
