"""lm-eval: log-likelihoods of continuations, each token's ids by the server, and greedy texts."""

import json
from importlib.metadata import version

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

url = "http://127.0.0.1:3001/v1/completions"
model = get_model("local-completions")(model="demo", base_url=url)
assert model.tokenizer_backend == "remote"

pairs = [
    ("What is histrio?", " It is a runtime."),
    ("The sky is", " blue"),
    ("The sky is", " green"),
    ("", "A text without a context"),
    ("Ein paar Wörter", " auf Deutsch: äöü"),
]
asked = [Instance("loglikelihood", {}, pair, nth) for nth, pair in enumerate(pairs)]
loglikelihoods = model.loglikelihood(asked)

greedy = Instance("generate_until", {}, ("Once upon a time", {"until": ["."], "max_gen_toks": 12}), 0)
(text,) = model.generate_until([greedy])
assert text
assert "." not in text

print(
    json.dumps(
        {
            "client": f"lm-eval {version('lm_eval')}",
            "did": ["loglikelihood", "completion"],
            "pairs": pairs,
            "loglikelihoods": loglikelihoods,
        }
    )
)
