"""What more than one backend needs."""
