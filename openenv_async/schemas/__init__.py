"""JSON Schemas: classes made of them, samples drawn from them, values checked against them."""
