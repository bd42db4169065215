"""The demo model: conversations that teach it, its tokenizer, its trainer and its exam.

Nothing here is needed to serve a model. `python -m demo.train --help` says how to make the weights
that ship in `histrio.demo`; `python -m demo.evaluate MODEL` says how good they are.
"""

__all__: list[str] = []
