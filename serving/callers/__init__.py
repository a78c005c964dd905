"""Who asks: API keys, tokens, and how much each caller may ask for."""
