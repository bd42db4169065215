"""What the last stage does with logits: grammars, samplers, the draw, acceptance of drafts."""
