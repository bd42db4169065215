"""How many tokens are drafted, by what they cost and how many were accepted."""
