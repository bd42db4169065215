"""What plugin authors and our own tests share: a deterministic toy backend, an in-process harness, bounded waiting."""
