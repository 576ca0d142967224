"""Speed, memory and the demonstration."""
