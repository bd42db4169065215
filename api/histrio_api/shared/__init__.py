"""What every room of the endpoint shares: one `Edge` and its parts."""
