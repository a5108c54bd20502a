"""The arena: contestants, battles, votes and ratings."""
