"""The room that speaks HTTP: translation only, no rules of its own."""
