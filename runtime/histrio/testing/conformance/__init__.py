"""The conformance kit: whether a backend keeps its contract.

pytest --pyargs histrio.testing.conformance --backend NAME

`docs/conformance.md` says what is tested and how to read the result.
"""
