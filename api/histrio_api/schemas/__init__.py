"""Requests and answers of the OpenAI-compatible API as msgspec structs, by what they are about."""
