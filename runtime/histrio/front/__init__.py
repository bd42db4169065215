"""The front's room: requests on their way in, and their tokens on the way out."""
