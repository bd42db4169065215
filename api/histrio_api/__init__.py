"""HTTP edge of histrio: an OpenAI-compatible endpoint."""
